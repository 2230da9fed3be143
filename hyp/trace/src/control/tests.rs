//! What is asked for arrives whole or not at all, and a line of text is read as it is written.

use super::*;
use crate::directory::DIRECTORY_BYTES;
use crate::words::tests::Shared;

fn asked() -> Control {
    let mut control = Control::default();
    for line in [
        "kinds map,unmap,io_page_fault",
        "streams 0:1,31:*",
        "iova 0x1000-0x1fff",
        "snapshot 100 iova 5-6",
        "watch 0x7000-0x7fff streams 1:2",
        "callers off",
    ] {
        control.apply(line).expect(line);
    }
    control
}

#[test]
fn what_is_published_is_read_once_and_whole() {
    let words = Shared::new(DIRECTORY_BYTES);
    let mut reader = ControlReader::default();
    assert_eq!(reader.changed(&words), None);
    assert_eq!(Control::current(&words), Some(Control::default()));
    asked().publish(&words);
    assert_eq!(reader.changed(&words), Some((1, asked())));
    assert_eq!(reader.changed(&words), None);
    assert_eq!(Control::current(&words), Some(asked()));
    Control::default().publish(&words);
    assert_eq!(reader.changed(&words), Some((2, Control::default())));
}

#[test]
fn a_block_that_is_being_written_is_not_believed() {
    let words = Shared::new(DIRECTORY_BYTES);
    let mut reader = ControlReader::default();
    words.store(CONTROL / 8, 7);
    words.store((CONTROL + KINDS) / 8, 1);
    assert_eq!(reader.changed(&words), None);
    assert_eq!(Control::current(&words), None);
    words.store(CONTROL / 8, 8);
    assert_eq!(
        reader.changed(&words).map(|(setting, control)| (setting, control.events.kinds())),
        Some((4, 1))
    );
}

#[test]
fn whatever_stands_in_the_block_is_a_control_within_bounds() {
    let words = Shared::new(DIRECTORY_BYTES);
    for word in 0..CONTROL_BYTES / 8 {
        words.store(CONTROL / 8 + word, u64::MAX - 1);
    }
    let (_, control) = ControlReader::default().changed(&words).expect("even");
    assert_eq!(control.snapshot_bytes, MAX_SNAPSHOT_BYTES);
}

#[test]
fn watches_add_up_to_four_and_go_together() {
    let mut control = Control::default();
    for line in
        ["watch 0x1000-0x1fff", "watch 5-5 streams 0:3", "watch 0-0x3fffff", "watch 0x9000-0x9001"]
    {
        control.apply(line).expect(line);
    }
    assert_eq!(control.watched().count(), MAX_WATCHES);
    let second = control.watches[1];
    assert_eq!((second.first, second.last, second.streams[0]), (5, 5, StreamSet(8)));
    assert_eq!(control.apply("watch 1-2"), Err(ControlError::Watches));
    control.apply("watch off").expect("off");
    assert_eq!(control, Control::default());
    assert_eq!(control.apply("watch 0-0x400000"), Err(ControlError::WatchBytes));
    assert_eq!(control.apply("watch 0-18446744073709551615"), Err(ControlError::WatchBytes));
    assert_eq!(control.apply("watch all"), Err(ControlError::WatchBytes));
    for wrong in [
        "watch",
        "watch 5",
        "watch 2-1",
        "watch 1-2 streams",
        "watch 1-2 kinds map",
        "watch off now",
    ] {
        assert!(control.apply(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_line_changes_what_it_names_and_nothing_else() {
    let mut control = asked();
    assert_eq!(control.events.kinds(), 1 << 4 | 1 << 5 | 1 << 12);
    assert_eq!(control.events.selection().streams[0], StreamSet(2));
    assert_eq!(control.events.selection().streams[31], StreamSet(u16::MAX));
    assert_eq!(
        (control.events.selection().first, control.events.selection().last),
        (0x1000, 0x1fff)
    );
    assert_eq!((control.snapshots.first, control.snapshots.last), (5, 6));
    assert_eq!(control.snapshots.streams, Selection::ALL.streams);
    control.apply("stop").unwrap();
    assert_eq!(control.events.kinds(), 0);
    control.apply(" start ").unwrap();
    control.apply("streams all").unwrap();
    control.apply("iova all").unwrap();
    assert!(control.events.is_everything());
    assert_eq!(control.snapshot_bytes, 100);
    control.apply("snapshot off").unwrap();
    assert_eq!(control.snapshot_bytes, 0);
}

#[test]
fn a_line_that_says_nothing_changes_nothing() {
    for (line, error) in [
        ("", ControlError::Command),
        ("go", ControlError::Command),
        ("start now", ControlError::Command),
        ("kinds", ControlError::Command),
        ("kinds map unmap", ControlError::Command),
        ("kinds mapp", ControlError::Kind),
        ("kinds ", ControlError::Command),
        ("streams 0", ControlError::Streams),
        ("streams 0:16", ControlError::Streams),
        ("streams 32:0", ControlError::Streams),
        ("iova 5", ControlError::Range),
        ("iova 6-5", ControlError::Range),
        ("iova 0xx-5", ControlError::Range),
        ("snapshot 0", ControlError::SnapshotBytes),
        ("snapshot 4097", ControlError::SnapshotBytes),
        ("snapshot 5 streams", ControlError::Command),
        ("snapshot 5 iova 1-", ControlError::Range),
    ] {
        let mut control = asked();
        assert_eq!(control.apply(line), Err(error), "{line}");
        assert_eq!(control, asked(), "{line}");
    }
}
