//! Names that stand for the images of several platforms.

use oci_puller::image::Platform;
use oci_puller::store::ImportOptions;
use oci_puller::{ErrorKind, PullContext};
use serde_json::Value;

use crate::made::{Image, Machine, Made};

const NAME: &str = "docker.io/library/app:1";

fn options() -> ImportOptions {
    ImportOptions::new()
}

fn on(platform: &str) -> ImportOptions {
    options().platform(Platform::parse(platform).unwrap())
}

/// An index in which another platform and an attestation stand before this platform.
fn several() -> (Made, [Image; 3], Value) {
    let mut made = Made::default();
    let images = ["linux/arm64", "linux/amd64", "linux/arm/v7"].map(|platform| made.image(platform));
    let said = made.attestation(&images[0]);
    let listed = [&said, &images[0].descriptor, &images[1].descriptor, &images[2].descriptor];
    let index = made.index(&listed.map(Clone::clone));
    (made, images, index)
}

#[test]
fn a_name_of_several_means_this_platform_s() {
    let (mut made, [arm64, amd64, arm], index) = several();
    made.list(&index, Some(NAME));
    let (machine, outcome) = made.import(&options());
    let imported = outcome.unwrap();
    assert_eq!((imported.names, imported.left_out.len()), (vec![NAME.to_owned()], 0));
    for (platform, image) in [("linux/amd64", &amd64), ("linux/arm64", &arm64), ("linux/arm", &arm)] {
        let store = machine.on(platform);
        let found = store.find(NAME).unwrap().unwrap();
        assert_eq!(found.id, image.id, "{platform}");
        assert_eq!(found.names, [NAME]);
        let listed = store.images().unwrap();
        assert_eq!(listed.len(), 3, "attestations are no images");
        assert_eq!(listed[0].manifest.digest, image.manifest, "this platform's is first");
        assert!(listed.iter().all(|it| it.names.is_empty() == (it.manifest.digest != image.manifest)));
        assert!(listed.iter().all(|it| it.platform.is_some()));
        let mut archive = Vec::new();
        store.export(&PullContext::new(), NAME, &mut archive).unwrap();
        let other = Machine::new(platform);
        other.store.import(&PullContext::new(), &archive[..]).unwrap();
        assert_eq!(other.images(), [(image.manifest.clone(), vec![NAME.to_owned()])]);
    }
    let store = machine.on("linux/s390x");
    assert!(store.find(NAME).unwrap().is_none());
    let error = store.export(&PullContext::new(), NAME, std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMatchingPlatform);
    assert!(error.to_string().contains("linux/arm64"), "{error}");
}

#[test]
fn one_image_is_removed_by_its_id_and_all_by_the_name() {
    let (mut made, [arm64, amd64, arm], index) = several();
    made.list(&index, Some(NAME));
    let (machine, _) = made.import(&options());
    let all = machine.blobs();
    let removed = machine.remove(arm64.id.as_str());
    assert_eq!(removed.names, [arm64.manifest.to_string()]);
    assert_eq!(removed.blobs, 6, "the image and what is said about it");
    assert_eq!(machine.images().len(), 2);
    assert_eq!(machine.found(NAME), Some(amd64.manifest.clone()));
    assert!(machine.on("linux/arm64").find(arm64.id.as_str()).unwrap().is_none());
    machine.remove(arm.manifest.as_str());
    assert_eq!(machine.images(), [(amd64.manifest, vec![NAME.to_owned()])]);
    assert_eq!(machine.remove(NAME).names, [NAME]);
    assert_eq!((machine.blobs(), all), (0, 13));

    for key in [NAME, index["digest"].as_str().unwrap()] {
        let (machine, _) = made.import(&options());
        assert_eq!(machine.remove(key).blobs, all, "{key}");
    }
    let (machine, _) = made.import(&options());
    for image in [&amd64.id, &arm.id, &arm64.id] {
        machine.remove(image.as_str());
    }
    assert_eq!((machine.blobs(), machine.images().len()), (0, 0), "with the last image all goes");
}

#[test]
fn complete_images_are_imported_and_others_skipped() {
    // What of each image is missing: nothing, a layer, the manifest; and what comes of it where.
    type Case = (&'static str, [&'static str; 2], Option<&'static str>, Result<usize, ErrorKind>);
    let cases: [Case; 10] = [
        ("both", ["", ""], None, Ok(2)),
        ("another's blobs are missing", ["", "layer"], None, Ok(1)),
        ("another's manifest is missing", ["", "manifest"], None, Ok(1)),
        ("this platform's blobs are missing", ["layer", ""], None, Err(ErrorKind::NotFound)),
        ("this platform's image was never there", ["manifest", ""], None, Ok(1)),
        ("nothing is whole", ["layer", "layer"], None, Err(ErrorKind::NotFound)),
        ("nothing is there", ["manifest", "manifest"], None, Err(ErrorKind::NotFound)),
        ("the other is asked for", ["layer", ""], Some("linux/arm64"), Ok(1)),
        ("the other is asked for, of both", ["", ""], Some("linux/arm64"), Ok(1)),
        ("what is not there is asked for", ["", ""], Some("linux/s390x"), Err(ErrorKind::NoMatchingPlatform)),
    ];
    for (told, lost, asked, expected) in cases {
        let mut made = Made::default();
        let images = [made.image("linux/amd64"), made.image("linux/arm64")];
        let index = made.index(&[images[1].descriptor.clone(), images[0].descriptor.clone()]);
        made.list(&index, Some(NAME));
        for (image, lost) in images.iter().zip(lost) {
            match lost {
                "layer" => made.lose(&image.layer),
                "manifest" => made.lose(&image.manifest),
                _ => {}
            }
        }
        let (machine, outcome) = made.import(&asked.map_or_else(options, on));
        let taken = outcome.as_ref().map(|imported| 2 - imported.left_out.len()).map_err(|kind| *kind);
        assert_eq!(taken, expected, "{told}: {outcome:?}");
        let Ok(taken) = taken else { continue };
        assert_eq!(outcome.unwrap().names, [NAME], "{told}");
        assert_eq!(machine.images().len(), taken, "{told}");
        // This machine's own, or what was asked for; an image of another platform is never taken for ours.
        let meant = match (lost[0], asked) {
            (_, Some(_)) => Some(&images[1].manifest),
            ("", None) => Some(&images[0].manifest),
            (_, None) => None,
        };
        assert_eq!(machine.found(NAME).as_ref(), meant, "{told}");
    }
}

#[test]
fn skipped_images_do_not_appear_later() {
    let (mut made, [arm64, amd64, _], index) = several();
    made.list(&index, Some(NAME));
    made.lose(&arm64.layer);
    let (machine, outcome) = made.import(&options());
    let left_out = outcome.unwrap().left_out;
    assert_eq!(left_out.len(), 1);
    assert_eq!(
        (&left_out[0].digest, left_out[0].platform.as_ref().unwrap().to_string()),
        (&arm64.manifest, "linux/arm64".to_owned())
    );
    let report = machine.store.verify(&PullContext::new()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.left_out, 2, "the image, and what is said about it");
    // Its manifest is not kept, for nothing that is kept needs it.
    assert!(machine.store.document(&arm64.manifest).is_err());
    assert_eq!(machine.found(NAME), Some(amd64.manifest));
    // A second import, of another platform's archive, adds to the first.
    let (mut made, _, index) = several();
    made.list(&index, Some(NAME));
    machine.store.import(&PullContext::new(), &made.archive()[..]).unwrap();
    assert_eq!(machine.images().len(), 3);
}

#[test]
fn two_entries_of_one_name_are_kept_for_two_platforms_and_refused_for_one() {
    let mut made = Made::default();
    let images = [made.image("linux/arm64"), made.image("linux/amd64")];
    let mut texts = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let mut made = made.clone();
        for at in order {
            // Some tools do not list the platform.
            let mut entry = images[at].descriptor.clone();
            entry.as_object_mut().unwrap().remove("platform");
            made.list(&entry, Some(NAME));
        }
        let (machine, outcome) = made.import(&options());
        assert_eq!(outcome.unwrap().names, [NAME], "a name is told once");
        assert_eq!(machine.found(NAME), Some(images[1].manifest.clone()));
        assert_eq!(machine.on("linux/arm64").find(NAME).unwrap().unwrap().id, images[0].id);
        assert_eq!(machine.images().len(), 2);
        assert!(machine.store.verify(&PullContext::new()).unwrap().is_sound());
        texts.push(std::fs::read_to_string(machine.store.dir().join("index.json")).unwrap());
    }
    assert_eq!(texts[0], texts[1], "whatever the order");

    let second = made.image("linux/amd64 second");
    made.list(&images[1].descriptor, Some(NAME));
    made.list(&second.descriptor, Some(NAME));
    assert_eq!(made.import(&options()).1, Err(ErrorKind::InvalidManifest));
    let machine = Machine::new("linux/amd64");
    let error = machine.store.import(&PullContext::new(), &made.archive()[..]).unwrap_err().to_string();
    for part in [NAME, images[1].manifest.as_str(), second.manifest.as_str()] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_store_of_another_tool_in_which_a_name_stands_for_several_is_read_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let (mut made, [arm64, amd64, arm], index) = several();
    made.lose(&arm.layer);
    made.list(&index, Some("v1"));
    // Two entries of one name, as ours would never write it.
    made.list(&arm64.descriptor, Some("v2"));
    made.list(&amd64.descriptor, Some("v2"));
    made.write(dir.path());
    for (platform, image) in
        [("linux/amd64", Some(&amd64)), ("linux/arm64", Some(&arm64)), ("linux/arm", None)]
    {
        let store = oci_puller::Store::builder(dir.path())
            .platform(Platform::parse(platform).unwrap())
            .build()
            .unwrap();
        for name in ["v1", "v2"] {
            let found = store.find(name).unwrap().map(|found| found.id);
            assert_eq!(found.as_ref(), image.map(|image| &image.id), "{platform} {name}");
        }
        assert_eq!(store.images().unwrap().len(), 2, "each whole image, once");
    }
}
