use crate::bench::Bench;

#[test]
fn the_demo_pulls_all_through_both_pullers_and_cleans_up() {
    let bench = Bench::new();
    let ran = bench.run(["demo"]).exits(0);
    let text = &ran.stdout;
    assert_eq!(ran.errors().len(), 0, "{ran:#?}");
    for image in ["shop/api:2.0", "shop/web:1.4", "shop/worker:2.0", "tools/probe:0.9", "lang/python:3.14"] {
        assert_eq!(text.lines().filter(|line| line.starts_with(image)).count(), 2, "{text}");
    }
    for told in ["ParallelImagePuller", "SerialImagePuller", "Range: bytes=3000000-", "429"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(ran.stderr.contains("shop/api:2.0") && ran.stderr.contains("resumed at 3.0 MB"), "{ran:#?}");
    assert_eq!(std::fs::read_dir(bench.path("tmp")).unwrap().count(), 0);
    assert!(!bench.path("store").exists());
}
