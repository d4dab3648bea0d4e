//! The manager's metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use super::request::{ImageSource, PullPolicy};
use crate::error::ErrorKind;
use crate::prometheus::PrometheusText;

/// Upper bounds of the histograms, seconds: those of
/// [kubelet's pull durations](https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/metrics/metrics.go).
const SECONDS: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// kubelet's names for image sizes, each with its lower bound in bytes; the largest first.
const SIZES: [(u64, &str); 12] = [
    (100 * GB, "GT100GB"),
    (60 * GB, "60GB-100GB"),
    (40 * GB, "40GB-60GB"),
    (30 * GB, "30GB-40GB"),
    (20 * GB, "20GB-30GB"),
    (10 * GB, "10GB-20GB"),
    (5 * GB, "5GB-10GB"),
    (GB, "1GB-5GB"),
    (500 * MB, "500MB-1GB"),
    (100 * MB, "100MB-500MB"),
    (10 * MB, "10MB-100MB"),
    (0, "0-10MB"),
];

fn size_name(bytes: u64) -> &'static str {
    SIZES.iter().find(|(bound, _)| bytes > *bound).map_or("N/A", |(_, name)| name)
}

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// Number of durations up to each of the [`bounds`](Self::bounds); each entry includes the one
    /// before it.
    pub counts: [u64; SECONDS.len()],
    /// Number of all durations.
    pub count: u64,
    /// Their sum, seconds.
    pub sum: f64,
}

impl Histogram {
    /// Returns the bounds of the counts, seconds.
    pub fn bounds() -> &'static [f64] {
        &SECONDS
    }

    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (count, bound) in self.counts.iter_mut().zip(SECONDS) {
            *count += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// Counts since the manager was built, and its current state.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ManagerMetrics {
    /// Pulls that wait for their turn.
    pub queued: usize,
    /// Pulls whose turn has come and that have not ended.
    pub running: usize,
    /// Requests that wait for a pull.
    pub waiting: usize,
    /// Pairs of owner and image that have failures which still count.
    pub back_off_keys: usize,
    /// Registries with pulls that run or wait.
    pub registries: usize,
    /// Pulls that succeeded.
    pub pulls_succeeded: u64,
    /// Pulls that failed, by the error's kind, sorted by its name.
    pub pulls_failed: Vec<(ErrorKind, u64)>,
    /// Requests that shared the pull of another one.
    pub joined: u64,
    /// Requests whose image was there.
    pub present: u64,
    /// Requests that used the image that was there because the pull failed.
    pub fallbacks: u64,
    /// Requests that were refused by the back-off.
    pub back_offs: u64,
    /// Requests that were refused by the throttle.
    pub throttled: u64,
    /// Bytes that pulls brought over the network.
    pub bytes_fetched: u64,
    /// Bytes of pulled images that were there already.
    pub bytes_reused: u64,
    /// Requests, by kubelet's labels.
    pub requests: BTreeMap<RequestLabels, u64>,
    /// Durations from request to begin of successful pulls, by kubelet's name for the size.
    pub wait_seconds: BTreeMap<&'static str, Histogram>,
    /// Durations of successful pulls, by kubelet's name for the size.
    pub pull_seconds: BTreeMap<&'static str, Histogram>,
}

/// kubelet's labels of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RequestLabels {
    /// The policy, in lower case.
    pub pull_policy: &'static str,
    /// Whether the image was there: `true`, `false`, or `unknown` if the manager did not look.
    pub present_locally: &'static str,
    /// Whether it had to be pulled: `true`, `false`, or `unknown` if the request failed before.
    pub pull_required: &'static str,
}

impl RequestLabels {
    pub(super) fn new(policy: PullPolicy, is_present: Option<bool>, needs_pull: Option<bool>) -> Self {
        let text = |answer| match answer {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        RequestLabels {
            pull_policy: match policy {
                PullPolicy::Always => "always",
                PullPolicy::IfNotPresent => "ifnotpresent",
                PullPolicy::Never => "never",
                PullPolicy::PullIfPossible => "pullifpossible",
            },
            present_locally: text(is_present),
            pull_required: text(needs_pull),
        }
    }
}

impl ManagerMetrics {
    pub(super) fn count_request(&mut self, labels: RequestLabels) {
        *self.requests.entry(labels).or_default() += 1;
    }

    pub(super) fn count_present(&mut self, source: &ImageSource) {
        match source {
            ImageSource::Fallback { .. } => self.fallbacks += 1,
            _ => self.present += 1,
        }
    }

    pub(super) fn count_pull(&mut self, size: Option<u64>, wait: Duration, pull: Duration) {
        let size = size_name(size.unwrap_or(0));
        self.pulls_succeeded += 1;
        self.wait_seconds.entry(size).or_default().observe(wait);
        self.pull_seconds.entry(size).or_default().observe(pull);
    }

    pub(super) fn count_failure(&mut self, kind: ErrorKind) {
        let name = |kind: ErrorKind| format!("{kind:?}");
        match self.pulls_failed.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => {
                self.pulls_failed.push((kind, 1));
                self.pulls_failed.sort_by_key(|(kind, _)| name(*kind));
            }
        }
    }

    /// Returns the metrics in the
    /// [text format of Prometheus](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format),
    /// under kubelet's names where kubelet has the metric.
    pub fn to_prometheus(&self) -> String {
        let mut text = PrometheusText::default();
        write_requests(&mut text, &self.requests);
        write_durations(&mut text, &self.pull_seconds, &self.wait_seconds);
        write_pulls(&mut text, self.pulls_succeeded, &self.pulls_failed);
        let counters = [
            ("oci_puller_joined_total", "Requests that shared the pull of another one.", self.joined),
            ("oci_puller_present_total", "Requests for an image that was there.", self.present),
            (
                "oci_puller_fallbacks_total",
                "Requests that used what was there, since its pull failed.",
                self.fallbacks,
            ),
            ("oci_puller_back_offs_total", "Requests refused since the image failed lately.", self.back_offs),
            ("oci_puller_throttled_total", "Requests refused by the throttle.", self.throttled),
            (
                "oci_puller_fetched_bytes_total",
                "Bytes that pulls brought over the network.",
                self.bytes_fetched,
            ),
            (
                "oci_puller_reused_bytes_total",
                "Bytes of pulled images that were there already.",
                self.bytes_reused,
            ),
        ];
        for (name, help, value) in counters {
            text.number(name, help, "counter", value);
        }
        let gauges = [
            ("oci_puller_queued_pulls", "Pulls that wait for their turn.", self.queued),
            ("oci_puller_running_pulls", "Pulls that run.", self.running),
            ("oci_puller_waiting_requests", "Requests that wait for a pull.", self.waiting),
            (
                "oci_puller_back_off_keys",
                "Owners and images whose failures are not forgotten.",
                self.back_off_keys,
            ),
        ];
        for (name, help, value) in gauges {
            text.number(name, help, "gauge", value as u64);
        }
        text.into_text()
    }
}

fn write_requests(text: &mut PrometheusText, requests: &BTreeMap<RequestLabels, u64>) {
    let name = "kubelet_image_manager_ensure_image_requests_total";
    text.head(name, "Requests for an image.", "counter");
    for (labels, count) in requests {
        let labels = [
            ("present_locally", labels.present_locally),
            ("pull_policy", labels.pull_policy),
            ("pull_required", labels.pull_required),
        ];
        text.sample(name, &labels, count);
    }
}

fn write_pulls(text: &mut PrometheusText, succeeded: u64, failed: &[(ErrorKind, u64)]) {
    let name = "oci_puller_pulls_total";
    text.head(name, "Pulls that ended, by outcome, and by kind if they failed.", "counter");
    text.sample(name, &[("outcome", "success"), ("kind", "")], succeeded);
    for (kind, count) in failed {
        text.sample(name, &[("outcome", "failure"), ("kind", &format!("{kind:?}"))], count);
    }
}

fn write_durations(
    text: &mut PrometheusText,
    pull: &BTreeMap<&str, Histogram>,
    wait: &BTreeMap<&str, Histogram>,
) {
    let name = "kubelet_image_pull_duration_seconds";
    let help = "Pulls that succeeded: how long they took, and how long they waited before.";
    text.head(name, help, "histogram");
    for (phase, by_size) in [("pull", pull), ("wait", wait)] {
        for (size, histogram) in by_size {
            write_histogram(text, name, [("image_size_in_bytes", size), ("phase", phase)], histogram);
        }
    }
}

fn write_histogram(text: &mut PrometheusText, name: &str, labels: [(&str, &str); 2], histogram: &Histogram) {
    let [first, second] = labels;
    let bucket = format!("{name}_bucket");
    for (bound, count) in SECONDS.iter().zip(histogram.counts) {
        text.sample(&bucket, &[first, second, ("le", &bound.to_string())], count);
    }
    text.sample(&bucket, &[first, second, ("le", "+Inf")], histogram.count);
    text.sample(&format!("{name}_sum"), &labels, histogram.sum);
    text.sample(&format!("{name}_count"), &labels, histogram.count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_kubelets_names_and_a_bound_belongs_to_the_lower_one() {
        let table = [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 * MB, "0-10MB"),
            (10 * MB + 1, "10MB-100MB"),
            (GB, "500MB-1GB"),
            (GB + 1, "1GB-5GB"),
            (100 * GB, "60GB-100GB"),
            (100 * GB + 1, "GT100GB"),
        ];
        for (bytes, name) in table {
            assert_eq!(size_name(bytes), name, "{bytes}");
        }
    }

    #[test]
    fn the_text_has_each_number_under_its_name() {
        let mut metrics = ManagerMetrics { joined: 3, queued: 2, ..ManagerMetrics::default() };
        metrics.count_pull(Some(42), Duration::from_secs(7), Duration::from_millis(500));
        metrics.count_failure(ErrorKind::NotFound);
        metrics.count_failure(ErrorKind::Denied);
        metrics.count_failure(ErrorKind::NotFound);
        metrics.count_request(RequestLabels::new(PullPolicy::Never, Some(false), None));
        let text = metrics.to_prometheus();
        for line in [
            "kubelet_image_manager_ensure_image_requests_total{present_locally=\"false\",pull_policy=\"never\",pull_required=\"unknown\"} 1",
            "# TYPE kubelet_image_pull_duration_seconds histogram",
            "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"0-10MB\",phase=\"pull\",le=\"1\"} 1",
            "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"0-10MB\",phase=\"wait\",le=\"5\"} 0",
            "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"0-10MB\",phase=\"wait\",le=\"+Inf\"} 1",
            "kubelet_image_pull_duration_seconds_sum{image_size_in_bytes=\"0-10MB\",phase=\"pull\"} 0.5",
            "oci_puller_pulls_total{outcome=\"success\",kind=\"\"} 1",
            "oci_puller_pulls_total{outcome=\"failure\",kind=\"Denied\"} 1",
            "oci_puller_pulls_total{outcome=\"failure\",kind=\"NotFound\"} 2",
            "oci_puller_joined_total 3",
            "oci_puller_queued_pulls 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
