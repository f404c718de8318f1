//! How much of what a transport holds belongs to which mailbox.

use std::collections::HashMap;

use super::Full;
use crate::app::Mailbox;

/// What one mailbox holds at most, waiting and held together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MailboxLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Messages and their bytes, by mailbox.
#[derive(Debug, Default)]
pub(super) struct Rooms(HashMap<Mailbox, Room>);

#[derive(Debug, Default)]
struct Room {
    messages: usize,
    bytes: usize,
}

impl Rooms {
    /// Takes room for a message if there is some. One message always fits, however large: its size has a limit of its own.
    pub(super) fn reserve(&mut self, mailbox: &Mailbox, bytes: usize, limits: MailboxLimits) -> Result<(), Full> {
        if let Some(room) = self.0.get(mailbox)
            && (room.messages >= limits.messages || room.bytes + bytes > limits.bytes)
        {
            return Err(Full);
        }
        self.take(mailbox, bytes);
        Ok(())
    }

    /// Takes room whether there is some or not.
    pub(super) fn take(&mut self, mailbox: &Mailbox, bytes: usize) {
        let room = self.0.entry(mailbox.clone()).or_default();
        room.messages += 1;
        room.bytes += bytes;
    }

    /// Gives the room of a message back.
    pub(super) fn release(&mut self, mailbox: &Mailbox, bytes: usize) {
        if let Some(room) = self.0.get_mut(mailbox) {
            room.messages = room.messages.saturating_sub(1);
            room.bytes = room.bytes.saturating_sub(bytes);
            if room.messages == 0 {
                self.0.remove(mailbox);
            }
        }
    }
}
