//! The memory limit of the control group this process is in, and what counts against it.
//!
//! Version 2 where it has the memory controller, else version 1. Limits of all groups above hold too, so the lowest counts;
//! usage is read where the process is, because a group above is used by others as well. In a container that shares the
//! host's view of `/proc/self/cgroup` the path does not exist below the mount: then the mount itself is the group.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's interface is mounted (cgroups(7)).
const MOUNT: &str = "/sys/fs/cgroup";
/// Version 1 says "no limit" by the largest number of pages; nobody has an exbibyte.
const UNLIMITED: u64 = 1 << 60;

/// A group that has a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The lowest limit on the way up, in bytes.
    pub limit: u64,
    /// The group of the process.
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Files that hold a limit. Past `memory.high` the kernel slows the process down until it stands still.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            Self::Two => &["memory.max", "memory.high"],
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// Entries of `memory.stat` that the kernel takes back when memory is short: pages of files and caches of its own.
    fn reclaimable(self) -> &'static [&'static str] {
        match self {
            Self::One => &["total_inactive_file", "total_active_file"],
            Self::Two => &["inactive_file", "active_file", "slab_reclaimable"],
        }
    }
}

impl Cgroup {
    /// The group of this process, if it has a limit.
    pub fn of_this_process() -> Option<Self> {
        Self::find(Path::new(MOUNT), &fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// `membership` is a text as of `/proc/self/cgroup`: lines of `id:controllers:path`.
    fn find(mount: &Path, membership: &str) -> Option<Self> {
        let lines = || membership.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let one = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
        let (root, path, version) = match one {
            // The controller belongs to one version at a time.
            Some((_, path)) => (mount.join("memory"), path, Version::One),
            None => (mount.to_owned(), lines().find(|(controllers, _)| controllers.is_empty())?.1, Version::Two),
        };
        let inside = Path::new(path.trim_start_matches('/'));
        let groups: Vec<PathBuf> = inside.ancestors().map(|group| root.join(group)).collect();
        let limits = groups.iter().flat_map(|group| version.limits().iter().map(|name| group.join(name)));
        let limit = limits.filter_map(|file| number(&file)).filter(|limit| *limit < UNLIMITED).min()?;
        let directory = groups.into_iter().find(|group| group.join(version.usage()).exists())?;
        Some(Self { limit, directory, version })
    }

    /// Bytes that count against the limit and that the kernel cannot take back. `None` where it does not say.
    pub fn used(&self) -> Option<u64> {
        let all = number(&self.directory.join(self.version.usage()))?;
        let stat = fs::read_to_string(self.directory.join("memory.stat")).unwrap_or_default();
        let wanted = self.version.reclaimable();
        let entries = stat.lines().filter_map(|line| line.split_once(' '));
        let reclaimable = entries.filter(|(name, _)| wanted.contains(name)).filter_map(|(_, bytes)| bytes.parse().ok());
        Some(all.saturating_sub(reclaimable.fold(0, u64::saturating_add)))
    }
}

/// A file that holds one number; `max` is none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("inside")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts_and_usage_is_our_own() {
        let root = tree(&[
            ("system.slice/memory.max", "268435456\n"),
            ("system.slice/memory.current", "999999999\n"),
            ("system.slice/sidestream.service/memory.max", "max\n"),
            ("system.slice/sidestream.service/memory.high", "536870912\n"),
            ("system.slice/sidestream.service/memory.current", "104857600\n"),
            (
                "system.slice/sidestream.service/memory.stat",
                "anon 5\ninactive_file 1048576\nactive_file 1048576\nslab_reclaimable 1048576\nsock 7\n",
            ),
        ]);
        let found = Cgroup::find(root.path(), "0::/system.slice/sidestream.service\n").expect("a limit");
        assert_eq!(found.limit, 256 * MIB);
        assert_eq!(found.used(), Some(97 * MIB));
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_finds_its_own_group_at_the_mount() {
        let root = tree(&[("memory.max", "268435456\n"), ("memory.current", "1048576\n")]);
        let found = Cgroup::find(root.path(), "0::/docker/0123\n").expect("a limit");
        assert_eq!((found.limit, found.used()), (256 * MIB, Some(MIB)));
    }

    #[test]
    fn version_1_is_read_where_it_has_the_controller() {
        let root = tree(&[
            ("memory/box/memory.limit_in_bytes", "268435456\n"),
            ("memory/box/memory.usage_in_bytes", "3145728\n"),
            ("memory/box/memory.stat", "inactive_file 9\ntotal_inactive_file 1048576\ntotal_active_file 0\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let found = Cgroup::find(root.path(), "4:memory:/box\n1:cpu:/\n0::/\n").expect("a limit");
        assert_eq!((found.limit, found.used()), (256 * MIB, Some(2 * MIB)));
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let root = tree(&[("a/memory.max", "max\n"), ("memory/b/memory.limit_in_bytes", "9223372036854771712\n")]);
        for membership in ["0::/a\n", "4:memory:/b\n0::/\n", "0::/gone\n", "", "nonsense"] {
            assert_eq!(Cgroup::find(root.path(), membership), None, "{membership}");
        }
    }
}
