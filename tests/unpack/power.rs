//! Power cuts on an ext4 of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::faults::{named_layers, run, sample, worker};
use crate::tree::tree;

const CUTS: u32 = 20;

/// A mount that ends with this.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let status = Command::new("mount").args(["-o", "loop"]).arg(disk).arg(at).status().unwrap();
        assert!(status.success());
        Mounted(at.to_owned())
    }

    /// Cuts the power: `EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`. What is not on the disk now never gets there.
    fn cut(&self) {
        let cut = r#"sysopen(D, $ARGV[0], 0) or die; my $f = pack("I", 2); ioctl(D, 0x8004587D, $f) or die"#;
        assert!(Command::new("perl").args(["-e", cut]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

pub(crate) fn power_cuts_leave_nothing_half_under_a_name() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let disk = at.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).status().unwrap().success());
    let (mount, whole, layers) =
        (at.path().join("mounted"), at.path().join("whole"), at.path().join("layers"));
    let begun = Instant::now();
    assert!(run(at.path(), &whole, "").status.success());
    let lasts = begun.elapsed();
    assert!(run(at.path(), format!("layers:{}", layers.display()), "").status.success());
    let (whole, layers) = (tree(&whole), named_layers(&layers));
    for cut in 0..CUTS {
        // Each second one unpacks into layers.
        let is_layered = cut % 2 == 1;
        let target = mount.join(format!("target-{cut}"));
        let work =
            if is_layered { format!("layers:{}", target.display()) } else { target.display().to_string() };
        let answered = {
            let mounted = Mounted::new(&disk, &mount);
            let mut child = worker(at.path(), &work).stdout(Stdio::piped()).spawn().unwrap();
            thread::sleep(lasts * cut * 3 / CUTS / 2);
            mounted.cut();
            child.wait().unwrap().success()
        };
        let _mounted = Mounted::new(&disk, &mount);
        let names = fs::read_dir(&target).map_or(0, Iterator::count);
        if is_layered {
            let named = named_layers(&target);
            assert!(named.iter().all(|(name, tree)| layers[name] == *tree), "cut {cut}: {named:?}");
            assert!(!answered || named == layers, "cut {cut}: {named:?}");
        } else if answered || (names > 0 && !target.join(".oci-puller-unfinished").exists()) {
            let (mut found, mut expected) = (tree(&target), whole.clone());
            // The root's time may be missing.
            found.remove(".");
            expected.remove(".");
            assert_eq!(found, expected, "cut {cut}");
            continue;
        }
        let again = run(at.path(), &work, "");
        assert!(again.status.success(), "cut {cut}: {}", String::from_utf8_lossy(&again.stdout));
        match is_layered {
            true => assert_eq!(named_layers(&target), layers, "cut {cut}"),
            false => assert_eq!(tree(&target), whole, "cut {cut}"),
        }
    }
}
