//! Routes: the shards that want a channel's events, for each channel in little memory.

use crate::link::LocalChannel;
use crate::logic::cells::Pool;

/// A shard that follows a channel, and the shard's number for the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) shard: u16,
    pub(super) local: LocalChannel,
}

/// The routes of one channel. Most channels have one subscriber, and so one route.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Routes {
    /// No shard follows the channel.
    #[default]
    None,
    /// The shard that follows the channel, and its number for the channel.
    One { shard: u16, local: LocalChannel },
    /// The number of a list of routes.
    Many(u32),
}

/// Lists of routes for the channels that more than one shard follows.
#[derive(Debug, Default)]
pub(super) struct RouteLists(Pool<Vec<Route>>);

impl RouteLists {
    /// Adds a route, or gives a shard's route the new number.
    pub(super) fn set(&mut self, routes: &mut Routes, route: Route) {
        match *routes {
            Routes::None => *routes = Routes::One { shard: route.shard, local: route.local },
            Routes::One { shard, .. } if shard == route.shard => *routes = Routes::One { shard, local: route.local },
            Routes::One { shard, local } => *routes = Routes::Many(self.0.add(vec![Route { shard, local }, route])),
            Routes::Many(number) => {
                let list = &mut self.0[number];
                match list.iter_mut().find(|other| other.shard == route.shard) {
                    Some(other) => *other = route,
                    None => list.push(route),
                }
            }
        }
    }

    /// Takes a shard out of a channel's routes.
    pub(super) fn unset(&mut self, routes: &mut Routes, leaving: u16) {
        match *routes {
            Routes::One { shard, .. } if shard == leaving => *routes = Routes::None,
            Routes::Many(number) => {
                let list = &mut self.0[number];
                list.retain(|route| route.shard != leaving);
                if let [Route { shard, local }] = list[..] {
                    self.0.remove(number);
                    *routes = Routes::One { shard, local };
                }
            }
            _ => {}
        }
    }

    /// The routes themselves.
    pub(super) fn of(&self, routes: Routes) -> impl Iterator<Item = Route> {
        let (one, list) = match routes {
            Routes::None => (None, &[][..]),
            Routes::One { shard, local } => (Some(Route { shard, local }), &[][..]),
            Routes::Many(number) => (None, &self.0[number][..]),
        };
        one.into_iter().chain(list.iter().copied())
    }

    /// The number of lists.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
