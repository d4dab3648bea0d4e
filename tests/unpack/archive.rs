//! Images as one tar.

use std::fs::{self, File};
use std::process::Command;

use crate::corpus::check_all;
use crate::layers::{Blob, dir, file, hard_link, image, tar};
use crate::tree::tree;

pub(crate) fn every_case_gives_its_tree_through_a_tar() {
    check_all(|store, image, dir| {
        let path = dir.join("image.tar");
        store.unpack(image).into_tar(File::create(&path).unwrap())?;
        let root = dir.join("root");
        fs::create_dir(&root).unwrap();
        let mut extract = Command::new("tar");
        extract.args([
            "-x",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--same-owner",
            "-p",
            "-S",
            "-f",
        ]);
        let output = extract.arg(&path).arg("-C").arg(&root).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Holes are written as zeros.
        let lines = tree(&root).into_iter();
        Ok(lines
            .map(|(path, line)| {
                (
                    path,
                    line.replace("of 65536", "of 65536 sparse")
                        .replace("of 1048576", "of 1048576 sparse")
                        .replace("sparse sparse", "sparse"),
                )
            })
            .collect())
    });
}

pub(crate) fn a_tar_is_sorted_and_reproducible() {
    let at = tempfile::tempdir().unwrap();
    let below = [
        dir("b"),
        file("b/z", "1"),
        file("a", "2"),
        file("b-c", "3"),
        hard_link("0", "b/z"),
        file("gone", "4"),
    ];
    let above = [file(".wh.gone", ""), file("b/y", vec![7; 300_000])];
    let (store, image) = image(&at.path().join("store"), &[Blob::gzip(tar(&below)), Blob::gzip(tar(&above))]);
    let archive = || {
        let mut bytes = Vec::new();
        store.unpack(&image).into_tar(&mut bytes).unwrap();
        bytes
    };
    let bytes = archive();
    assert_eq!(bytes, archive());
    let (mut names, mut place) = (Vec::new(), 0);
    while bytes[place] != 0 {
        let header = &bytes[place..place + 512];
        let text = |at: usize| {
            String::from_utf8(header[at..].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        names.push(format!("{}{}{}", text(0), if header[156] == b'1' { " -> " } else { "" }, text(157)));
        let size = usize::from_str_radix(text(124).get(..11).unwrap(), 8).unwrap();
        place += 512 + size.next_multiple_of(512);
    }
    assert_eq!(names, ["./", "0", "a", "b/", "b-c", "b/y", "b/z -> 0"]);
}
