//! Names, files and stores that cannot be used.

use super::{Case, case};

pub(super) const CASES: &[Case] = &[
    case(
        "pull Alpine",
        1,
        "error: Alpine: invalid reference: the repository must be in lower case; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull alpine:",
        1,
        "error: alpine:: invalid reference: a tag consists of letters, digits, _ . and -, and begins with a letter, a digit or _; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull alpine:a:b",
        1,
        "error: alpine:a:b: invalid reference: a tag consists of letters, digits, _ . and -, and begins with a letter, a digit or _; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull alpine@sha256:abc",
        1,
        r#"error: alpine@sha256:abc: invalid reference: "sha256:abc" is no digest; one looks like sha256: and 64 lower-case hexadecimal digits; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case"#,
    ),
    case(
        "pull alpine@md5:d41d8cd98f00b204e9800998ecf8427e",
        1,
        "error: alpine@md5:d41d8cd98f00b204e9800998ecf8427e: unsupported: digest algorithm md5: only sha256 and sha512 are known",
    ),
    case(
        "pull https://ghcr.io/team/app",
        1,
        "error: https://ghcr.io/team/app: invalid reference: an image name has no scheme; leave out what stands before and with ://; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull docker://alpine",
        1,
        "error: docker://alpine: invalid reference: an image name has no scheme; leave out what stands before and with ://; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull /alpine",
        1,
        "error: /alpine: invalid reference: each part of the repository is lower-case letters and digits, joined by . _ __ or dashes; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    case(
        "pull team//app",
        1,
        "error: team//app: invalid reference: each part of the repository is lower-case letters and digits, joined by . _ __ or dashes; write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case",
    ),
    Case {
        files: &[("ca.pem", "no certificate")],
        ..case(
            "pull --ca {dir}/ca.pem {host}/app",
            1,
            "error: {dir}/ca.pem: the file has no PEM block of the type CERTIFICATE",
        )
    },
    Case {
        files: &[("cert.pem", "no certificate")],
        ..case(
            "pull --cert {dir}/cert.pem {host}/app",
            1,
            "error: {dir}/cert.pem: the file has no PEM block of the type CERTIFICATE",
        )
    },
    Case {
        files: &[("key.pem", "no key")],
        ..case(
            "pull --require-key {host}={dir}/key.pem {host}/app",
            1,
            "error: {dir}/key.pem: the key is unusable: it is no PUBLIC KEY block (PEM, SubjectPublicKeyInfo)",
        )
    },
    Case {
        files: &[("policy.json", "{")],
        ..case(
            "pull --policy {dir}/policy.json {host}/app",
            1,
            "error: invalid configuration: {dir}/policy.json: not a policy: EOF while parsing an object at line 1 column 1",
        )
    },
    case(
        "rm app",
        1,
        "error: there is no store at {dir}/store yet; pull an image, or give another folder with --store",
    ),
    case(
        "inspect app",
        1,
        "error: there is no store at {dir}/store yet; pull an image, or give another folder with --store",
    ),
    case(
        "export --output {dir}/x.tar app",
        1,
        "error: there is no store at {dir}/store yet; pull an image, or give another folder with --store",
    ),
    case("import {dir}/missing.tar", 1, "error: {dir}/missing.tar: No such file or directory (os error 2)"),
    Case {
        files: &[("x.tar", "no tar")],
        ..case(
            "import {dir}/x.tar",
            1,
            "error: {dir}/x.tar: invalid manifest: the archive cannot be used: it is cut short",
        )
    },
    Case {
        files: &[("folder/x", "")],
        ..case(
            "import {dir}/folder",
            1,
            "error: {dir}/folder: invalid configuration: it is no image layout that can be used: it has no oci-layout",
        )
    },
    Case {
        files: &[("store/letter", "")],
        ..case(
            "pull {host}/app",
            1,
            r#"error: invalid configuration: {dir}/store is no image layout: it has no oci-layout, and is not empty ("letter" is there)"#,
        )
    },
    Case {
        files: &[("file", "")],
        ..case(
            "images --store {dir}/file",
            1,
            "error: invalid configuration: the store {dir}/file is no folder",
        )
    },
    case(
        "images --cri /no/such.sock",
        3,
        "error: /no/such.sock: connection failed: the socket does not exist; check the path of the socket, and that the container runtime runs",
    ),
    case("verify", 1, "there is no store at {dir}/store yet"),
    case(
        "pin app",
        1,
        "error: there is no store at {dir}/store yet; pull an image, or give another folder with --store",
    ),
];
