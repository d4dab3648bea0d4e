//! What the limit of open files (`RLIMIT_NOFILE`) allows.
//!
//! A pull that lacks a file descriptor waits for one, and meanwhile keeps those that it has. So only as many
//! pulls run as there are descriptors for; the others wait before they open anything. The pulls from one
//! registry leave some for those from other registries.

use super::settings::RegistrySettings;
use crate::durable::max_open_files;

/// Descriptors that a process has open besides its pulls: standard streams, signals, the store.
const BASE: usize = 16;

/// Descriptors of one pull: a connection, the one before that is being closed, a partial download, locks, the
/// index.
const PER_PULL: usize = 6;

/// The number of files that this process may have open.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFiles {
    limit: usize,
}

impl OpenFiles {
    /// Reads the limit of this process.
    pub(super) fn of_process() -> Self {
        OpenFiles { limit: max_open_files() }
    }

    /// Returns how many pulls may run at a time, at least one.
    pub(super) fn pulls(self) -> usize {
        (self.limit.saturating_sub(BASE) / PER_PULL).max(1)
    }

    /// Lowers the numbers of connections to what the limit allows.
    pub(super) fn lower(self, settings: &mut RegistrySettings, per_host: &mut usize, downloads: &mut usize) {
        let pulls = self.pulls();
        settings.downloads_per_pull = settings.downloads_per_pull.min(pulls.div_ceil(4));
        settings.limits.idle_connections = settings.limits.idle_connections.min(pulls / 4);
        *per_host = pulls.min(*per_host);
        *downloads = pulls.min(*downloads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_bounds_pulls_and_connections_and_a_usual_one_does_not() {
        let cases = [
            (0, 1, (1, 0, 1, 1)),
            (20, 1, (1, 0, 1, 1)),
            (32, 2, (1, 0, 2, 2)),
            (64, 8, (2, 2, 8, 8)),
            (256, 40, (10, 10, 16, 32)),
            (1024, 168, (16, 16, 16, 32)),
            (1 << 20, 174_760, (16, 16, 16, 32)),
        ];
        for (limit, pulls, lowered) in cases {
            let files = OpenFiles { limit };
            let (mut settings, mut per_host, mut downloads) = (RegistrySettings::default(), 16, 32);
            files.lower(&mut settings, &mut per_host, &mut downloads);
            let RegistrySettings { downloads_per_pull, limits, .. } = settings;
            assert_eq!(files.pulls(), pulls, "{limit}");
            assert_eq!(
                (downloads_per_pull, limits.idle_connections, per_host, downloads),
                lowered,
                "{limit}"
            );
        }
    }
}
