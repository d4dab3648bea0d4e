//! The tables of the rooms.

/// A room, and the rooms that it may use; what those may use, it may use too.
pub(crate) const ROOMS: &[(&str, &[&str])] = &[
    ("manager", &["puller", "service", "durable", "prometheus"]),
    ("puller", &["service"]),
    ("registry", &["store", "credentials", "service", "unpack", "prometheus"]),
    ("cri", &["service", "credentials"]),
    ("unpack", &["store", "decoders"]),
    ("signatures", &["registry", "store"]),
    ("credentials", &["service"]),
    ("store", &["durable", "image", "context", "tar", "decoders"]),
    ("testing", &["image"]),
    ("decoders", &[]),
    ("durable", &[]),
    ("service", &["image", "context"]),
    ("context", &["progress"]),
    ("progress", &["image"]),
    ("image", &[]),
    ("error", &["image"]),
    ("clock", &[]),
    ("log_filter", &[]),
    ("prometheus", &[]),
    ("sync", &[]),
    ("tar", &[]),
];

/// What every room may use.
pub(crate) const GROUND: &[&str] = &["error", "clock", "sync"];

/// The floors inside a room, the highest first: a part may use its own floor and those below.
pub(crate) const FLOORS: &[(&str, &[&[&str]])] = &[
    (
        "registry",
        &[
            &["builder", "fuzzing"],
            &["image_service"],
            &["pull", "queries"],
            &["unpacking"],
            &["verifier"],
            &["resolve", "download", "referrers"],
            &["document"],
            &["retry"],
            &["request"],
            &["session"],
            &["client"],
            &["open_files"],
            &["settings", "hosts", "auth"],
            &["host_limits", "url_policy", "content_range", "error_response", "encoding"],
            &["http", "retry_after", "link_header"],
            &["address", "client_metrics"],
        ],
    ),
    (
        "credentials",
        &[
            &["sources"],
            &["files", "helper", "pull_secrets"],
            &["docker_config", "keyring", "lookup"],
            &["credential", "query", "glob", "go_duration", "config_file", "yaml"],
        ],
    ),
    (
        "manager",
        &[
            &["tests"],
            &["builder"],
            &["image_manager"],
            &["workers"],
            &["ensure"],
            &["presence"],
            &["inner"],
            &["in_flight", "jobs"],
            &["shared_pull", "verification"],
            &["responder", "schedule", "throttle", "backoff", "records", "metrics"],
            &["request", "events", "credential_hash"],
        ],
    ),
    (
        "puller",
        &[
            &["forward", "parallel", "serial"],
            &["pulls"],
            &["image_puller"],
            &["rejected"],
            &["queued"],
            &["result"],
        ],
    ),
    (
        "store",
        &[
            &["tests"],
            &["open", "import", "export", "prune_loop"],
            &["gc", "verify"],
            &["ingest"],
            &["signatures"],
            &["image_files"],
            &["lookup"],
            &["children"],
            &["growing"],
            &["blob", "partial_gc", "disk_usage", "references", "transaction"],
            &["handle"],
            &["create"],
            &["group_commit", "growth", "in_progress", "repair", "reservations"],
            &["lease"],
            &["index_write"],
            &["layout", "leftovers", "retry_io"],
            &["error", "cancellable", "index", "names", "settings", "sizes", "tar"],
        ],
    ),
    (
        "unpack",
        &[
            &["growing", "image"],
            &["job"],
            &["dir_output", "layers"],
            &["finish_dirs", "flush", "whiteouts", "load_record", "run"],
            &["folder", "merge", "record", "tar_output"],
            &["output", "remove"],
            &["beneath", "change", "rules"],
            &["path", "stream", "tree"],
            &["fault", "settings", "turn", "user"],
        ],
    ),
    (
        "sync",
        &[
            &["blocking_pool", "timer"],
            &["rate_limit", "thread_group"],
            &[
                "agenda",
                "delivery",
                "fair_share",
                "job_queue",
                "panics",
                "semaphore",
                "single_flight",
                "token_bucket",
                "until",
                "watched",
            ],
        ],
    ),
    ("tar", &[&["reader"], &["pax"], &["sparse", "writer"], &["header"], &["block"]]),
    ("decoders", &[&["gzip", "zstd"], &["errors"]]),
    ("durable", &[&["real", "sim"], &["sim_world"], &["real_file", "write"], &["disk"]]),
    (
        "cri",
        &[
            &["builder"],
            &["service"],
            &["fuzzing", "status"],
            &["grpc", "socket"],
            &["api", "endpoint", "http2"],
        ],
    ),
    (
        "signatures",
        &[
            &["stored"],
            &["fuzzing", "policy"],
            &["lookup", "policy_json"],
            &["judge", "requirement"],
            &["signer"],
            &["bundle", "identity", "simple_signing"],
            &["key", "scope", "strict_json"],
        ],
    ),
    (
        "testing",
        &[
            &["registry"],
            &["exchange"],
            &["auth"],
            &["content", "deliver"],
            &["fault", "reply", "server"],
            &["connection", "http", "images", "link", "record", "wait"],
        ],
    ),
    ("service", &[&["image_service"], &["request", "result"]]),
    (
        "image",
        &[
            &["select"],
            &["manifest", "config"],
            &["platform", "reference", "json"],
            &["digest"],
            &["quoted", "size"],
        ],
    ),
];

/// The rooms in which no file names the room's `mod.rs`: that is the face over its parts.
pub(crate) const FACES: &[&str] = &["credentials", "manager", "puller", "registry", "store"];

/// Crates that only one place may name, so that they can be replaced there.
pub(crate) const HIDDEN_CRATES: &[(&str, &str)] = &[("ureq", "src/registry/http")];
