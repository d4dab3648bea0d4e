//! Disks that are full, read-only, or lose power.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use oci_puller::store::PrunePolicy;
use oci_puller::{ErrorKind, Store};

use crate::archives::image;
use crate::worker::start;
use crate::{Outcome, check, check_all, cx, images, run, tool, write_archives};

/// A file system that is unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(line: &str, at: &Path) -> Result<Self, Failed> {
        fs::create_dir_all(at)?;
        run(tool(line).arg(at))?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

pub(crate) fn full_disk(dir: &Path) -> Outcome {
    let disk = Mounted::new("mount -t tmpfs -o size=4m tmpfs", &dir.join("tmpfs"))?;
    let path = disk.0.join("store");
    let store = Store::builder(&path).reserve(64 << 10).build()?;
    let small = image("small:1", &[&[1; 1 << 20]]);
    store.import(&cx(), &small.archive[..])?;
    let large = image("large:1", &[&[2; 2 << 20], &[3; 2 << 20]]);
    let error = store.import(&cx(), &large.archive[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
    assert!(error.message().contains("2.1 MB are needed"), "{error}");
    // Out of space in the middle: another program takes the free space.
    fs::write(disk.0.join("other"), vec![0; 1 << 20])?;
    let careless = Store::builder(&path).reserve(0).build()?;
    let middling = image("middling:1", &[&[4; 1 << 20], &[5; 1 << 20]]);
    assert_eq!(careless.import(&cx(), &middling.archive[..]).unwrap_err().kind(), ErrorKind::DiskFull);
    assert_eq!(fs::read_dir(path.join(".oci-puller/partial"))?.count(), 0);
    check_all(&path, &[small])?;
    fs::remove_file(disk.0.join("other"))?;
    store.import(&cx(), &middling.archive[..])?;
    check_all(&path, &[middling])
}

/// Uses up every byte and every inode that is free, beside the store.
fn fill(disk: &Path) -> Outcome {
    use std::io::Write;
    for (at, size) in [1 << 20, 64 << 10, 4 << 10, 1, 0].into_iter().enumerate() {
        for nth in 0.. {
            let path = disk.join(format!("filler-{at}-{nth}"));
            let written = fs::File::create(path).and_then(|mut file| file.write_all(&vec![7; size]));
            match written {
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

pub(crate) fn removal_on_full_disks(dir: &Path) -> Outcome {
    let disk_image = dir.join("disk");
    let ext4 = |options: &str| -> Result<String, Failed> {
        fs::File::create(&disk_image)?.set_len(16 << 20)?;
        run(tool(&format!("mkfs.ext4 -q -F -m 0{options}")).arg(&disk_image))?;
        Ok(format!("mount -o loop {}", disk_image.display()))
    };
    let cases = [
        ("ext4", ext4("")?),
        ("tmpfs", "mount -t tmpfs -o size=8m,nr_inodes=2000 tmpfs".to_owned()),
        ("inodes of a tmpfs", "mount -t tmpfs -o size=64m,nr_inodes=80 tmpfs".to_owned()),
    ];
    for (told, mount) in cases {
        let disk = Mounted::new(&mount, &dir.join("full"))?;
        remove_on_full(&disk.0).map_err(|error| format!("{told}: {error:?}"))?;
    }
    let disk = Mounted::new(&ext4(" -N 80")?, &dir.join("full"))?;
    remove_on_full(&disk.0).map_err(|error| format!("inodes of an ext4: {error:?}").into())
}

fn remove_on_full(disk: &Path) -> Outcome {
    let path = disk.join("store");
    let kept = image("kept:1", &[b"kept", &[9; 5000]]);
    let pulled: Vec<_> = (0..4u8).map(|at| image(&format!("image:{at}"), &[&[at; 100_000]])).collect();
    {
        let store = Store::builder(&path).reserve(0).build()?;
        for image in pulled.iter().chain([&kept]) {
            store.import(&cx(), &image.archive[..])?;
        }
        let read_from = store.find("kept:1")?.ok_or("it is gone")?;
        store.pin(&cx(), &read_from.names[0], true)?;
    }
    for (nth, image) in pulled.iter().enumerate() {
        fill(disk)?;
        let store = Store::builder(&path).reserve(0).build()?;
        let refused = store.import(&cx(), &crate::archives::image("new:1", &[b"new"]).archive[..]);
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::DiskFull));
        let freed = match nth % 2 {
            0 => store.remove(&cx(), &image.name)?,
            // The least recently used goes, which is the first that is left.
            _ => store.prune(&cx(), &PrunePolicy::default().min_age(Duration::ZERO).thresholds(1, 1))?,
        };
        assert!(freed.names.contains(&image.name) && freed.bytes >= 100_000, "{freed:?}");
        check_all(&path, std::slice::from_ref(&kept))?;
        assert!(path.join(".oci-puller/reserve").exists(), "the reserve is made anew");
        if nth % 2 == 1 {
            break;
        }
    }
    Ok(())
}

pub(crate) fn read_only(dir: &Path) -> Outcome {
    let path = dir.join("store");
    Store::open(&path)?.import(&cx(), &images()[0].archive[..])?;
    let disk = Mounted::new(&format!("mount --bind {}", path.display()), &dir.join("view"))?;
    run(tool("mount -o remount,bind,ro").arg(&disk.0))?;
    let store = Store::open(&disk.0)?;
    check(&store, &images()[0])?;
    store.export(&cx(), &images()[0].name, std::io::sink())?;
    for error in [
        store.import(&cx(), &images()[1].archive[..]).unwrap_err(),
        store.remove(&cx(), &images()[0].name).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    }
    check_all(&disk.0, &images()[..1])
}

pub(crate) fn power_cuts(dir: &Path) -> Outcome {
    let disk_image = dir.join("disk");
    fs::File::create(&disk_image)?.set_len(64 << 20)?;
    run(tool("mkfs.ext4 -q -F").arg(&disk_image))?;
    let pulled: Vec<_> =
        (0..400u32).map(|at| image(&format!("image:{at}"), &[&at.to_le_bytes(), &[7; 3000]])).collect();
    let archives = write_archives(dir, &pulled)?;
    let mut answered = 0;
    for cut in 0..20 {
        let mount = format!("mount -o loop {}", disk_image.display());
        let disk = Mounted::new(&mount, &dir.join("mounted"))?;
        let path = disk.0.join("store");
        check_all(&path, &pulled[..answered]).map_err(|error| format!("after {cut} cuts: {error:?}"))?;
        let work = format!("import {} {}", path.display(), archives[answered..].join(" "));
        let mut child = start(&work).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Somewhere in the pulls, later with each cut.
        for _ in 0..=cut % 5 {
            answered += usize::from(lines.next().is_some());
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
        // EXT4_IOC_SHUTDOWN with NOLOGFLUSH: what is not on the disk now never gets there.
        let cut = r#"sysopen(D, $ARGV[0], 0) or die; my $f = pack("I", 2); ioctl(D, 0x8004587D, $f) or die"#;
        run(Command::new("perl").args(["-e", cut]).arg(&disk.0))?;
        answered += lines.map_while(Result::ok).count();
        child.wait()?;
    }
    let disk = Mounted::new(&format!("mount -o loop {}", disk_image.display()), &dir.join("mounted"))?;
    check_all(&disk.0.join("store"), &pulled[..answered])
}
