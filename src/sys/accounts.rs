//! The ids of users and groups, as the host's name services know them (nsswitch.conf(5): files, LDAP, sssd, …).

use std::io;

use nix::errno::Errno;
use nix::unistd::{Group, User};

/// The id of a user, by name or number; `None` if there is no user of that name.
///
/// # Errors
/// If the name services cannot be asked.
pub fn user_id(user: &str) -> io::Result<Option<u32>> {
    match user.parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => found(User::from_name(user).map(|user| user.map(|user| user.uid.as_raw()))),
    }
}

/// The id of a group, by name or number; `None` if there is no group of that name.
///
/// # Errors
/// If the name services cannot be asked.
pub fn group_id(group: &str) -> io::Result<Option<u32>> {
    match group.parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => found(Group::from_name(group).map(|group| group.map(|group| group.gid.as_raw()))),
    }
}

/// Some name services report an unknown name as an error (getpwnam(3)).
fn found(answer: nix::Result<Option<u32>>) -> io::Result<Option<u32>> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        assert_eq!((user_id("root").unwrap(), user_id("7").unwrap()), (Some(0), Some(7)));
        assert_eq!((group_id("root").unwrap(), group_id("7").unwrap()), (Some(0), Some(7)));
        assert_eq!((user_id("no such user").unwrap(), group_id("no such group").unwrap()), (None, None));
    }

    #[test]
    fn a_service_that_knows_no_such_name_is_no_error() {
        assert_eq!(found(Err(Errno::ENOENT)).unwrap(), None);
        assert_eq!(found(Err(Errno::EIO)).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
