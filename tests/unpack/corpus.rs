//! Each case, unpacked in each way, makes the tree that it should.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use oci_puller::store::StoredImage;
use oci_puller::{Error, ErrorKind, Store};

use crate::cases::{self, Case, Expected};
use crate::layers::{Blob, image, tar};
use crate::tree::tree;

/// Where links of the cases lead.
const OUTSIDE: &str = "/tmp/oci-puller-test-outside";

pub(crate) fn every_case_gives_its_tree_in_a_folder() {
    let into_dir = |store: &Store, image: &StoredImage, dir: &Path| {
        store.unpack(image).into_dir(dir.join("root")).map(|_| tree(&dir.join("root")))
    };
    check_all(into_dir);
}

pub(crate) fn every_case_gives_its_tree_with_one_thread() {
    let into_dir = |store: &Store, image: &StoredImage, dir: &Path| {
        store.unpack(image).threads(1).into_dir(dir.join("root")).map(|_| tree(&dir.join("root")))
    };
    check_all(into_dir);
}

/// Unpacks every case by `unpack`, and compares.
pub(crate) fn check_all(
    unpack: impl Fn(&Store, &StoredImage, &Path) -> Result<BTreeMap<String, String>, Error>,
) {
    let _ = fs::create_dir(OUTSIDE);
    fs::write(Path::new(OUTSIDE).join("victim"), "v").unwrap();
    let mut wrong = Vec::new();
    for case in cases::all() {
        let dir = tempfile::tempdir().unwrap();
        let blobs: Vec<Blob> = case.layers.iter().map(|layer| Blob::gzip(tar(layer))).collect();
        let (store, image) = image(&dir.path().join("store"), &blobs);
        if let Err(what) = compare(&case, unpack(&store, &image, dir.path())) {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    let names: Vec<_> = fs::read_dir(OUTSIDE).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"]);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn compare(case: &Case, outcome: Result<BTreeMap<String, String>, Error>) -> Result<(), String> {
    match (&case.expected, outcome) {
        (Expected::Refused(kind), Err(error)) if error.kind() == *kind => check_message(&error),
        (Expected::Refused(kind), Err(error)) => Err(format!("refused, but not as {kind:?}: {error}")),
        (Expected::Refused(kind), Ok(found)) => Err(format!("not refused as {kind:?}, but {found:?}")),
        (Expected::Tree(_), Err(error)) => Err(format!("refused: {error}")),
        (Expected::Tree(lines), Ok(found)) => {
            let mut expected = BTreeMap::from([(".".to_owned(), "dir t 0".to_owned())]);
            expected.extend(lines.iter().map(|(path, line)| ((*path).to_owned(), (*line).to_owned())));
            if found == expected {
                Ok(())
            } else {
                Err(format!("\n  found    {found:?}\n  expected {expected:?}"))
            }
        }
    }
}

/// The message names image and layer, and shows nothing raw.
fn check_message(error: &Error) -> Result<(), String> {
    let text = error.to_string();
    let is_good = text.starts_with("test: unpack: ")
        && text.contains("layer ")
        && text.contains("sha256:")
        && !text.chars().any(char::is_control);
    if is_good { Ok(()) } else { Err(format!("the message is {text:?}")) }
}

pub(crate) fn an_error_names_layer_entry_and_cause_and_is_not_retryable() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = crate::layers::hard_link("bin/\x1b[2J", "gone");
    let blobs = [Blob::plain(tar(&[])), Blob::plain(tar(&[wrong]))];
    let (store, image) = image(&dir.path().join("store"), &blobs);
    let error = store.unpack(&image).into_dir(dir.path().join("root")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLayer);
    assert!(!error.is_retryable());
    let digest = oci_puller::image::Digest::sha256(&blobs[1].bytes);
    let expected = format!(
        r#"test: unpack: invalid layer: layer 2 of 2 ({digest}): "bin/\u{{1b}}[2J": it is a hard link to "gone", which is not there"#
    );
    assert_eq!(error.to_string(), expected);
}
