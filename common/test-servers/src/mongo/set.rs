//! A replica set of three, for what only more than one member can do: elections.

use bson::doc;

use super::server::{Member, initiate, primary_of, run, uri};
use super::wire;
use crate::process::wait_for;

/// Three members, each with test commands (`failCommand`) on.
#[derive(Debug)]
pub struct MongoReplicaSet {
    members: Vec<Member>,
}

impl MongoReplicaSet {
    /// Starts one and waits until it can be written to, and until every member can take over.
    #[expect(clippy::new_without_default, reason = "starting processes is nothing to do by default")]
    pub fn start() -> Self {
        let members: Vec<_> = (0..3).map(|_| Member::start()).collect();
        let set = Self { members };
        initiate(&set.ports());
        wait_for("two secondaries", || set.secondaries() == 2);
        set
    }

    /// The connection string, with every member.
    pub fn uri(&self) -> String {
        uri(&self.ports())
    }

    /// Where the members listen on 127.0.0.1.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// Waits for a primary and tells its place among the members.
    pub fn primary(&self) -> usize {
        let ports = self.ports();
        let primary = primary_of(&ports);
        ports.iter().position(|&port| port == primary).unwrap()
    }

    /// Makes the primary step down for so many seconds; the others elect another.
    pub fn step_down(&self, seconds: i32) {
        let port = self.members[self.primary()].port;
        run(port, "admin", doc! { "replSetStepDown": seconds, "force": true });
    }

    /// The process of a member, for signals.
    pub fn process_id(&self, member: usize) -> u32 {
        self.members[member].process.id()
    }

    /// Kills a member as `kill -9` does; its files stay.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process.kill();
    }

    /// Starts a member again on its port and files.
    pub fn restart(&mut self, member: usize) {
        self.members[member].restart();
    }

    fn secondaries(&self) -> usize {
        let is_secondary = |member: &&Member| {
            wire::command(member.port, "admin", doc! { "hello": 1 })
                .is_ok_and(|answer| wire::is_true(&answer, "secondary"))
        };
        self.members.iter().filter(is_secondary).count()
    }
}
