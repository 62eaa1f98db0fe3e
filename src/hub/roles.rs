//! The roles of publishers, and how many of them may connect.

/// The permissions of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The connection is the server's own and may do everything.
    Own,
    /// The publisher may do everything that the feed offers.
    Publisher,
    /// Commands that change nothing.
    Reader,
}

/// Which users may connect to the feed.
#[derive(Debug)]
pub(super) struct Admission {
    /// Users that may publish, by their ids; empty for all that the socket's mode lets in.
    pub(super) allowed_users: Vec<u32>,
    /// Users that may only look, by their ids.
    pub(super) readers: Vec<u32>,
    /// The most publishers, without the server's own connections.
    pub(super) publishers_max: usize,
    /// The most descriptors of the hub's table.
    pub(super) descriptors_max: u64,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            allowed_users: Vec::new(),
            readers: Vec::new(),
            publishers_max: usize::MAX,
            descriptors_max: u64::MAX,
        }
    }
}

impl Admission {
    /// The role of a user, if it may connect.
    pub(super) fn role(&self, user: u32) -> Option<Role> {
        if self.readers.contains(&user) {
            return Some(Role::Reader);
        }
        (self.allowed_users.is_empty() || self.allowed_users.contains(&user)).then_some(Role::Publisher)
    }
}
