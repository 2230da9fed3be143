//! Which modules must be loaded, and in which order: what `modprobe` works out, done on the host.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// How many modules one may need before another: deeper is a circle.
const DEEPEST_CHAIN: usize = 64;

/// The indexes of one kernel's modules.
#[derive(Debug, Default)]
pub struct ModuleIndex {
    /// Path and the names needed first, by module name.
    modules: HashMap<String, Module>,
    /// Modules that are part of the kernel image.
    builtin: HashSet<String>,
    /// Names that stand for a module, without patterns.
    aliases: HashMap<String, Vec<String>>,
    /// Modules or aliases that should be loaded before a module, if there are any.
    softly_needed: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Module {
    /// Below the modules' folder.
    path: String,
    needs: Vec<String>,
}

impl ModuleIndex {
    /// Reads the indexes in a kernel's modules folder, as `depmod` writes them.
    ///
    /// # Errors
    ///
    /// `modules.dep` is missing or unreadable.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("modules.dep");
        let dependencies =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A kernel with nothing built in, aliased or softly needed has no such file.
        let optional = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        Ok(Self::parse(
            &dependencies,
            &optional("modules.builtin"),
            &optional("modules.alias"),
            &optional("modules.softdep"),
        ))
    }

    /// Reads the texts of `modules.dep`, `modules.builtin`, `modules.alias` and `modules.softdep`.
    #[must_use]
    pub fn parse(dependencies: &str, builtin: &str, aliases: &str, soft: &str) -> Self {
        let mut index = Self::default();
        for line in dependencies.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(name_of).collect();
                index.modules.insert(name_of(path), Module { path: path.to_owned(), needs });
            }
        }
        index.builtin.extend(builtin.lines().map(name_of));
        for line in aliases.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["alias", alias, module] = words.as_slice()
                && !alias.contains(['*', '?', '['])
            {
                index.aliases.entry(plain(alias)).or_default().push(plain(module));
            }
        }
        for line in soft.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(module) = words.next() else { continue };
            let before =
                words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| !word.ends_with(':'));
            index.softly_needed.entry(plain(module)).or_default().extend(before.map(plain));
        }
        index
    }

    /// The paths to load for the modules wanted, below the modules' folder, each after all that it needs.
    ///
    /// A name that begins with `?` is left out if the kernel has no such module; a module that is built in needs no
    /// loading.
    ///
    /// # Errors
    ///
    /// The kernel has no module of a wanted name, or the index runs in a circle.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Order { index: self, loaded: HashSet::new(), paths: Vec::new() };
        for name in wanted {
            match name.strip_prefix('?') {
                Some(optional) => order.add_if_present(&plain(optional), 0)?,
                None => order.add(&plain(name), 0)?,
            }
        }
        Ok(order.paths)
    }

    fn has(&self, name: &str) -> bool {
        self.modules.contains_key(name) || self.builtin.contains(name)
    }
}

/// An order being made.
struct Order<'index> {
    index: &'index ModuleIndex,
    loaded: HashSet<String>,
    paths: Vec<String>,
}

impl Order<'_> {
    fn add(&mut self, name: &str, depth: usize) -> Result<()> {
        if depth > DEEPEST_CHAIN {
            bail!("the kernel's modules need each other in a circle through {name}");
        }
        if self.loaded.contains(name) || self.index.builtin.contains(name) {
            return Ok(());
        }
        let Some(module) = self.index.modules.get(name) else {
            bail!("this kernel has no module {name}: name another kernel, or leave the module out");
        };
        let index = self.index;
        for softly_needed in index.softly_needed.get(name).into_iter().flatten() {
            self.add_if_present(softly_needed, depth + 1)?;
        }
        for needed in &module.needs {
            self.add(needed, depth + 1)?;
        }
        if self.loaded.insert(name.to_owned()) {
            self.paths.push(module.path.clone());
        }
        Ok(())
    }

    fn add_if_present(&mut self, name: &str, depth: usize) -> Result<()> {
        if self.index.has(name) {
            return self.add(name, depth);
        }
        let index = self.index;
        for module in index.aliases.get(name).into_iter().flatten() {
            if index.has(module) {
                self.add(module, depth)?;
            }
        }
        Ok(())
    }
}

/// A module's name from its path: `kernel/lib/crc-t10dif.ko.xz` is `crc_t10dif`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    plain(file.split(".ko").next().unwrap_or(file))
}

/// The spelling in which `-` and `_` are the same, as the kernel has it.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::ModuleIndex;

    const DEPENDENCIES: &str = "kernel/block/t10-pi.ko: kernel/lib/crc-t10dif.ko kernel/crypto/common.ko\n\
        kernel/lib/crc-t10dif.ko.xz: kernel/crypto/common.ko\n\
        kernel/crypto/common.ko:\n\
        kernel/crypto/crct10dif-ce.ko: kernel/crypto/common.ko\n\
        kernel/nvme/nvme.ko: kernel/nvme/nvme-core.ko kernel/block/t10-pi.ko\n\
        kernel/nvme/nvme-core.ko:\n";

    fn index() -> ModuleIndex {
        ModuleIndex::parse(
            DEPENDENCIES,
            "kernel/drivers/virtio/virtio.ko\n",
            "# Aliases\nalias crct10dif crct10dif_ce\nalias pci:v0000* nvme\n",
            "softdep crc_t10dif pre: crct10dif absent post: nvme\n",
        )
    }

    #[test]
    fn every_module_comes_after_all_that_it_needs_and_only_once() {
        let order = index().load_order(&["nvme", "t10_pi"]).expect("an order");
        let place = |name: &str| order.iter().position(|path| path.contains(name)).expect("it is there");
        assert_eq!(order.len(), 6, "{order:?}");
        assert!(place("common") < place("crct10dif-ce") && place("crct10dif-ce") < place("crc-t10dif"));
        assert!(place("crc-t10dif") < place("t10-pi") && place("t10-pi") < place("nvme.ko"));
        assert!(place("nvme-core") < place("nvme.ko"));
    }

    #[test]
    fn dashes_and_underscores_and_compression_are_the_same_module() {
        let order = index().load_order(&["crc_t10dif"]).expect("an order");
        assert_eq!(order.last().map(String::as_str), Some("kernel/lib/crc-t10dif.ko.xz"));
    }

    #[test]
    fn built_in_modules_and_absent_optional_ones_need_no_loading() {
        assert!(index().load_order(&["virtio", "?nothing-of-the-kind"]).expect("an order").is_empty());
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let error = index().load_order(&["e1000e"]).unwrap_err().to_string();
        assert!(error.contains("no module e1000e"), "{error}");
    }

    #[test]
    fn a_circle_ends_with_an_error() {
        let index = ModuleIndex::parse("a.ko: b.ko\nb.ko: a.ko\n", "", "", "");
        assert!(index.load_order(&["a"]).unwrap_err().to_string().contains("circle"));
    }
}
