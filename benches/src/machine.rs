//! The machine and the process, as Linux tells of them in `/proc`. Elsewhere these facts are missing.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    cpu: Option<String>,
    kernel: Option<String>,
    memory_mib: Option<u64>,
    /// Tasks that wanted a processor in the last minute, on average, before anything was measured.
    load: Option<f64>,
    /// Where the databases were.
    dir: String,
    pub(crate) filesystem: Option<String>,
    /// `release`, or `debug`, whose figures mean nothing.
    build: &'static str,
}

impl Machine {
    pub(crate) fn look(dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let cpu = read("/proc/cpuinfo").and_then(|text| field(&text, "model name").map(str::to_owned));
        let memory = read("/proc/meminfo").and_then(|text| kib(field(&text, "MemTotal")?));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu,
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            memory_mib: memory.map(|kib| kib / 1024),
            load: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            dir: dir.display().to_string(),
            filesystem: read("/proc/self/mountinfo")
                .and_then(|mounts| filesystem(&mounts, &dir.canonicalize().ok()?)),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// Whether what is written here is kept in memory only, so that flushing it costs nothing.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self.filesystem.as_deref(), Some("tmpfs" | "ramfs"))
    }

    /// The facts in one line.
    pub(crate) fn line(&self) -> String {
        let unknown = || "unknown".to_owned();
        format!(
            "{} cores ({}), load {}, Linux {}, {} MiB, {} on {}, {} build",
            self.cores,
            self.cpu.clone().unwrap_or_else(unknown),
            self.load.map_or_else(unknown, |load| load.to_string()),
            self.kernel.clone().unwrap_or_else(unknown),
            self.memory_mib.map_or_else(unknown, |mib| mib.to_string()),
            self.filesystem.clone().unwrap_or_else(unknown),
            self.dir,
            self.build,
        )
    }
}

/// The value of `name: value` or `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kib(value: &str) -> Option<u64> {
    value.split_whitespace().next()?.parse().ok()
}

/// The type of the file system that holds `path`, by the list of mounts (proc(5), mountinfo): of those that hold it, the
/// deepest, and of two at one place, the later.
fn filesystem(mounts: &str, path: &Path) -> Option<String> {
    let mounted = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        path.starts_with(point).then(|| (point.components().count(), kind))
    });
    let (_, kind) = mounted.max_by_key(|(depth, _)| *depth)?;
    kind.split(' ').next().map(str::to_owned)
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> Option<f64> {
    status("VmRSS")
}

/// The most memory this process had resident, in bytes.
pub(crate) fn peak() -> Option<f64> {
    status("VmHWM")
}

fn status(name: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(kib(field(&text, name)?)? as f64 * 1024.0)
}

/// The time this process has spent on processors, in steps of 10 ms (`USER_HZ` is 100 on every Linux).
pub(crate) fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_deepest_mount() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:26 / /tmp rw - tmpfs tmpfs rw\n\
                      31 30 254:1 / /tmp/disk rw shared:5 - xfs /dev/vdb rw\n";
        let of = |path: &str| filesystem(mounts, Path::new(path));
        assert_eq!(of("/home/x").as_deref(), Some("ext4"));
        assert_eq!(of("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(of("/tmp/disk/x").as_deref(), Some("xfs"));
        assert_eq!(of("/tmp/disks").as_deref(), Some("tmpfs"));
        assert_eq!(filesystem("", Path::new("/")), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_knows_its_memory_and_its_time() {
        let (now, most) = (resident().unwrap(), peak().unwrap());
        assert!(now > 100_000.0 && most >= 100_000.0, "{now} {most}");
        assert!(cpu_time().unwrap() < Duration::from_secs(3_600));
    }
}
