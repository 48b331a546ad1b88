//! A clock that stands or goes otherwise than it should: a small library that is loaded before the C library of the process under test.
//!
//! `libfaketime` does the same and more, and cannot be loaded into the program: it asks for memory before the program's allocator stands.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::Desk;

/// The right time, Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The library.
pub(crate) struct WrongClock {
    library: PathBuf,
}

impl WrongClock {
    /// Compiles it; every clock is right as yet.
    pub(crate) fn new(desk: &Desk) -> Self {
        let (source, library) = (desk.path("wrong_clock.c"), desk.path("wrong_clock.so"));
        std::fs::write(&source, include_str!("wrong_clock.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
        let done = compiler.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { library }
    }

    /// Processes of the desk that start from now on see that time now, which goes on so many times as fast as it should.
    pub(crate) fn set(&self, desk: &mut Desk, shown_ms: u64, rate: u32) {
        desk.set("LD_PRELOAD", self.library.to_str().unwrap());
        desk.set("WRONG_CLOCK", &format!("{shown_ms} {} {rate}", now_ms()));
    }

    /// And from now on those that start see the right one again.
    pub(crate) fn unset(desk: &mut Desk) {
        desk.set("LD_PRELOAD", "");
    }
}

#[test]
fn a_process_is_shown_the_time_that_was_set_and_how_it_goes_on() {
    let mut desk = Desk::new();
    let clock = WrongClock::new(&desk);
    let shown = |desk: &Desk| -> u64 {
        let date = Command::new("date").arg("+%s%3N").env_clear().envs(desk.environment()).output().unwrap();
        String::from_utf8(date.stdout).unwrap().trim().parse().unwrap()
    };
    let hour_ms = 3_600_000;
    for set_ms in [now_ms() + hour_ms, now_ms() - hour_ms, 1_806_193_799_999] {
        clock.set(&mut desk, set_ms, 1);
        let since = now_ms();
        let first = shown(&desk);
        assert!(first >= set_ms && first - set_ms <= now_ms() - since + 2, "{set_ms} is shown as {first}");
    }
    clock.set(&mut desk, 1_806_193_799_999, 300);
    let (since, first) = (now_ms(), shown(&desk));
    // The time that passes is what is looked at.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let passed = shown(&desk) - first;
    assert!(passed >= 20 * 300 && passed <= (now_ms() - since + 2) * 300, "{passed} ms passed");
    WrongClock::unset(&mut desk);
    assert!(shown(&desk).abs_diff(now_ms()) < hour_ms);
}
