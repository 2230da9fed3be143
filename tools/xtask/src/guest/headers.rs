//! A kernel's headers and build system, which compile modules for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use oche::progress::Step;
use oche::{command, workspace};

use super::archive::{self, Archive, Package};
use super::kernel::GuestKernel;
use super::toolchain::{Toolchain, compiler_version, host_architecture};

/// The file that keeps the version of the kernel's compiler.
const COMPILER: &str = "compiler";

/// The unpacked headers of a kernel.
#[derive(Debug)]
pub(super) struct Headers {
    /// The folder of the flavour, with the kernel's configuration.
    flavour: PathBuf,
    /// The makefile that all flavours share.
    makefile: PathBuf,
    /// The compiler that the kernel was built with.
    toolchain: Toolchain,
}

impl Headers {
    /// The headers that [`Headers::unpack`] left in `folder`, if it has.
    ///
    /// # Errors
    ///
    /// As [`Toolchain::of_suite`].
    pub(super) fn kept(kernel: &GuestKernel, folder: &Path, step: &Step) -> Result<Option<Self>> {
        let root = folder.join("headers");
        let compiler = fs::read_to_string(root.join(COMPILER)).unwrap_or_default();
        let Ok(version) = compiler.parse() else { return Ok(None) };
        let names = fs::read_dir(root.join("usr/src")).into_iter().flatten().flatten();
        let (common, flavours): (Vec<_>, Vec<_>) = names
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().contains("/linux-headers-"))
            .partition(|path| path.to_string_lossy().ends_with("-common"));
        let (Some(common), Some(flavour)) = (common.first(), flavours.into_iter().next()) else {
            return Ok(None);
        };
        let toolchain = Toolchain::of_suite(&kernel.suite, version, step)?;
        // A machine of the kernel's release may have unpacked them and left them as they were.
        toolchain.adopt(&root.join("usr/lib"))?;
        Ok(Some(Self { flavour, makefile: common.join("Makefile"), toolchain }))
    }

    /// Unpacks them into `folder`, in place of what was there.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached or lacks them, or the disk is full.
    pub(super) fn unpack(
        archive: &Archive,
        kernel: &GuestKernel,
        folder: &Path,
        step: &Step,
    ) -> Result<Self> {
        let name = kernel.package.trim_end_matches("-unsigned").replacen(
            "linux-image-",
            "linux-headers-",
            1,
        );
        let flavour = archive.package(&name, "arm64", step)?;
        let need = |prefix: &str, suffix: &str| {
            flavour
                .depends
                .iter()
                .find(|name| name.starts_with(prefix) && name.ends_with(suffix))
                .cloned()
                .with_context(|| format!("package {name} names no {prefix}*{suffix}"))
        };
        let common = need("linux-headers-", "-common")?;
        let build_tools = need("linux-kbuild-", "")?;
        let compiler = compiler_version(&flavour)?;
        // All from the kernel's own version: the archive may meanwhile have a newer one.
        let of_kernel = |name: &str, architecture: &str| Package {
            name: name.to_owned(),
            version: kernel.version.clone(),
            architecture: architecture.to_owned(),
            depends: Vec::new(),
        };
        let packages = [
            of_kernel(&name, "arm64"),
            of_kernel(&common, "all"),
            of_kernel(&build_tools, host_architecture()),
        ];
        let debs = archive.download(&packages, step)?;
        let root = folder.join("headers");
        workspace::remove_folder(&root)?;
        step.detail("unpacking the kernel's headers");
        archive::unpack(&debs, &root)?;
        let toolchain = Toolchain::of_suite(&kernel.suite, compiler, step)?;
        toolchain.adopt(&root.join("usr/lib").join(&build_tools))?;
        workspace::write_whole(&root.join(COMPILER), compiler.to_string().as_bytes())?;
        let sources = root.join("usr/src");
        let makefile = sources.join(common).join("Makefile");
        Ok(Self { flavour: sources.join(&name), makefile, toolchain })
    }

    /// Compiles the modules that the `Kbuild` in `sources` names.
    ///
    /// # Errors
    ///
    /// The compiler is missing or fails.
    pub(super) fn compile(&self, sources: &Path) -> Result<()> {
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.flavour).arg("-f").arg(&self.makefile);
        make.arg("ARCH=arm64").arg(format!("CROSS_COMPILE={}", self.toolchain.prefix));
        make.arg(format!("CC={}", self.toolchain.compiler.display()));
        // Type information for the kernel's tracer would need one more tool, and no one traces this
        // module.
        make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
        make.arg(format!("M={}", sources.display())).arg("modules");
        // What the caller's make or packaging tools left in the environment must not reach the
        // kernel's build.
        for name in
            ["MAKEFLAGS", "MFLAGS", "KCFLAGS", "DEB_BUILD_ARCH", "DEB_HOST_ARCH", "O", "V", "M"]
        {
            make.env_remove(name);
        }
        // Since Linux 6.13 not the folder that make starts in.
        make.env("KBUILD_OUTPUT", &self.flavour).env("LC_ALL", "C");
        command::run(&mut make, "compiling a module of the kernel")
    }
}
