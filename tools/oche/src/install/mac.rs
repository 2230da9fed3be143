//! The Mac that the system runs on, by its device tree.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use super::root::SystemRoot;

/// Where Linux shows the device tree.
const TREE: &str = "/proc/device-tree";
/// The root of an M1's tree is compatible with it.
const M1: &str = "apple,t8103";
/// The property of `/chosen` by which m1n1 names the EFI system partition that it was read from.
/// Source: m1n1 1.4.21, `src/chainload.c`; asahi-scripts 20250713, `functions.sh`.
const ESP: &str = "chosen/asahi,efi-system-partition";

/// A Mac with an M1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Mac {
    /// Its name in the device tree, such as `apple,j313`.
    pub(super) name: String,
    /// Its model, for a person.
    pub(super) model: String,
    /// The PARTUUID of the EFI system partition from which m1n1 was started, if it says so.
    pub(super) esp: Option<String>,
}

impl Mac {
    /// Reads the device tree of the system.
    ///
    /// # Errors
    ///
    /// There is none, or it is another machine's.
    pub(super) fn read(root: &SystemRoot) -> Result<Self> {
        let tree = root.path(TREE);
        let Some(compatible) = strings(&tree.join("compatible")) else {
            if root.is_own() {
                bail!("{TREE} has no device tree: run this on the Mac, in its Linux");
            }
            let folder = root.folder().display();
            bail!(
                "{folder}{TREE} has no device tree: on the Mac, run `mount --rbind /proc \
                 {folder}/proc`"
            );
        };
        let name = compatible.first().cloned().unwrap_or_default();
        let model = strings(&tree.join("model")).and_then(|list| list.into_iter().next());
        let model = model.unwrap_or_else(|| name.clone());
        if !compatible.iter().any(|text| text == M1) {
            let list = compatible.join(", ");
            bail!("this is a {model} ({list}): Oche supports Macs with an M1 ({M1}) only");
        }
        let esp = strings(&tree.join(ESP)).and_then(|list| list.into_iter().next());
        Ok(Self { name, model, esp: esp.filter(|uuid| !uuid.is_empty()) })
    }
}

/// The strings of a property, each without its zero byte.
fn strings(path: &Path) -> Option<Vec<String>> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let printable = |text: &str| text.chars().filter(|letter| !letter.is_control()).collect();
    Some(text.split('\0').filter(|text| !text.is_empty()).map(printable).collect())
}

#[cfg(test)]
mod tests {
    use super::{Mac, SystemRoot};
    use std::fs;

    #[test]
    fn only_an_m1_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = SystemRoot::open(folder.path()).unwrap();
        let refusal = || format!("{:#}", Mac::read(&root).unwrap_err());
        assert!(refusal().contains("has no device tree"), "{}", refusal());
        let tree = folder.path().join("proc/device-tree");
        fs::create_dir_all(tree.join("chosen")).unwrap();
        fs::write(tree.join("compatible"), b"apple,j314s\0apple,t6000\0apple,arm-platform\0")
            .unwrap();
        assert!(refusal().contains("apple,t6000"), "{}", refusal());
        fs::write(tree.join("compatible"), b"apple,j313\0apple,t8103\0apple,arm-platform\0")
            .unwrap();
        fs::write(tree.join("model"), b"Apple MacBook Air (M1, 2020)\0").unwrap();
        let mac = Mac::read(&root).unwrap();
        assert_eq!((mac.name.as_str(), mac.esp), ("apple,j313", None));
        fs::write(tree.join("chosen/asahi,efi-system-partition"), b"1234-ab\0").unwrap();
        assert_eq!(Mac::read(&root).unwrap().esp.as_deref(), Some("1234-ab"));
    }
}
