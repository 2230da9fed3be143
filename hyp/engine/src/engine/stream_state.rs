//! The states of a stream, and the only transitions between them.

use oche_types::invariant;

use crate::host::DomainId;

/// What translates a stream's accesses, and what will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StreamState {
    /// The hardware refuses every access.
    #[default]
    Blocked,
    /// The same, until the tables of `next` have been applied.
    Waiting { next: DomainId },
    /// The hardware uses the tables of `now`.
    Attached { now: DomainId },
    /// The same, until the tables of `next`, another domain, have been applied.
    Moving { now: DomainId, next: DomainId },
}

impl StreamState {
    /// The domain that the hardware uses.
    #[inline]
    pub(super) fn now(self) -> Option<DomainId> {
        match self {
            Self::Attached { now } | Self::Moving { now, .. } => Some(now),
            Self::Blocked | Self::Waiting { .. } => None,
        }
    }

    /// The domain whose tables the stream waits for.
    #[inline]
    pub(super) fn next(self) -> Option<DomainId> {
        match self {
            Self::Waiting { next } | Self::Moving { next, .. } => Some(next),
            Self::Blocked | Self::Attached { .. } => None,
        }
    }

    /// Has a stream that waits for nothing wait for the tables of `next`.
    pub(super) fn wait(&mut self, next: DomainId) {
        invariant!(self.next().is_none(), "a stream waits for one domain at a time");
        invariant!(self.now() != Some(next), "a stream waits for another domain than its own");
        *self = match self.now() {
            None => Self::Waiting { next },
            Some(now) => Self::Moving { now, next },
        };
    }

    /// Ends the wait. Returns the domain that the stream waited for.
    pub(super) fn cancel(&mut self) -> Option<DomainId> {
        let next = self.next();
        *self = match *self {
            Self::Waiting { .. } => Self::Blocked,
            Self::Moving { now, .. } => Self::Attached { now },
            other => other,
        };
        next
    }

    /// Blocks a stream that waits for nothing. Returns the domain that it was attached to.
    pub(super) fn block(&mut self) -> Option<DomainId> {
        invariant!(self.next().is_none(), "a stream that is blocked waits for nothing");
        core::mem::take(self).now()
    }

    /// Attaches a stream to `domain`, which it has waited for. Returns the domain that it was
    /// attached to before.
    pub(super) fn attach(&mut self, domain: DomainId) -> Option<DomainId> {
        invariant!(self.next() == Some(domain), "a stream is attached to what it waits for");
        core::mem::replace(self, Self::Attached { now: domain }).now()
    }
}

#[cfg(test)]
mod tests {
    use super::{DomainId, StreamState};

    const ONE: DomainId = DomainId(1);
    const TWO: DomainId = DomainId(2);

    #[test]
    fn a_stream_is_attached_moves_and_is_blocked() {
        let mut state = StreamState::default();
        assert_eq!((state.now(), state.next()), (None, None));
        state.wait(ONE);
        assert_eq!((state.now(), state.next()), (None, Some(ONE)));
        assert_eq!(state.attach(ONE), None);
        assert_eq!((state.now(), state.next()), (Some(ONE), None));
        state.wait(TWO);
        assert_eq!((state.now(), state.next()), (Some(ONE), Some(TWO)));
        assert_eq!(state.attach(TWO), Some(ONE));
        assert_eq!(state.block(), Some(TWO));
        assert_eq!(state, StreamState::Blocked);
        assert_eq!(state.block(), None);
    }

    #[test]
    fn a_cancelled_wait_leaves_what_the_hardware_uses() {
        let mut state = StreamState::Waiting { next: ONE };
        assert_eq!(state.cancel(), Some(ONE));
        assert_eq!(state, StreamState::Blocked);
        state = StreamState::Moving { now: ONE, next: TWO };
        assert_eq!(state.cancel(), Some(TWO));
        assert_eq!(state, StreamState::Attached { now: ONE });
        assert_eq!(state.cancel(), None);
        assert_eq!(state, StreamState::Attached { now: ONE });
    }

    #[test]
    #[should_panic(expected = "a stream waits for another domain than its own")]
    fn a_stream_never_moves_to_its_own_domain() {
        StreamState::Attached { now: ONE }.wait(ONE);
    }

    #[test]
    #[should_panic(expected = "a stream waits for one domain at a time")]
    fn a_stream_never_waits_for_two_domains() {
        StreamState::Waiting { next: ONE }.wait(TWO);
    }

    #[test]
    #[should_panic(expected = "a stream is attached to what it waits for")]
    fn a_stream_is_never_attached_to_tables_that_were_not_applied() {
        StreamState::Waiting { next: ONE }.attach(TWO);
    }

    #[test]
    #[should_panic(expected = "a stream that is blocked waits for nothing")]
    fn a_blocked_stream_never_begins_to_translate_by_an_older_wait() {
        StreamState::Waiting { next: ONE }.block();
    }
}
