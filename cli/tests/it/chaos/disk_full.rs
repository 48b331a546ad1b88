//! A disk that fills up: first to the low-water mark, then to its last byte; and space that returns.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use promptmill_doubles::Config;
use reqwest::StatusCode;

use super::scene::{SLOTS, Scene, wait_until, wait_until_it};
use crate::checker::history::Allowed;
use crate::checker::table;

/// MiB of the disk. The mark lies at 64 MiB of free space.
const DISK: u32 = 112;

/// Set in the process that runs inside a namespace of its own.
const INSIDE: &str = "PROMPTMILL_TEST_OWN_NAMESPACE";

/// A small disk of its own, unmounted when the test ends.
struct Disk(PathBuf);

impl Disk {
    /// `None` when this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={DISK}m,mode=0700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        mount.ok().filter(|done| done.status.success()).map(|_| Self(at))
    }

    /// Leaves this many MiB free.
    fn fill(&self, leave: u64) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        while free(&self.0) > leave * 1024 {
            // Somebody else may take the last page.
            let piece = free(&self.0).saturating_sub(leave * 1024).clamp(4, 1024);
            if filler.write_all(&vec![1; usize::try_from(piece).unwrap() * 1024]).is_err() {
                break;
            }
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// KiB free.
fn free(path: &Path) -> u64 {
    let output = Command::new("df").args(["-k", "--output=avail"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().nth(1).unwrap().trim().parse().unwrap()
}

/// Runs this test again where its user may mount: in a namespace in which it is root.
fn run_inside(name: &str) {
    assert!(std::env::var_os(INSIDE).is_none(), "no disk can be mounted, not even in a namespace of its own");
    let mut inside = Command::new("unshare");
    inside.args(["--map-root-user", "--mount"]).arg(std::env::current_exe().unwrap());
    let done = inside.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_holds_and_goes_on_when_space_returns() {
    let seed = 1;
    let mut scene = Scene::new(Config { seed, latency: "5..30".parse().unwrap(), ..Config::default() });
    let Some(disk) = Disk::mount(scene.desk.path("data")) else {
        return run_inside("chaos::disk_full::a_full_disk_refuses_holds_and_goes_on_when_space_returns");
    };
    let server = scene.first_server();
    let client = server.client();
    let load = scene.load(&client, seed, 4, 10_000);
    load.wait_for_more("some batches", 12, |told| &told.acked).await;
    let ready = async || client.get("/readyz").await;
    assert_eq!(ready().await.1["status"], "ok");

    // Below the mark nothing more is taken in, and what is there goes on to its end.
    disk.fill(40);
    load.wait_for_more("refusals at the mark", 20, |told| &told.refused).await;
    wait_until_it("readiness to say so", async || ready().await.1["status"] == "no_room").await;
    let doubles = scene.doubles.clone();
    wait_until_it("the work in hand to end", async || {
        let (_, list) = client.get("/v1/batches?limit=50").await;
        list["data"].as_array().unwrap().iter().all(|batch| batch["counts"]["open"] == 0)
    })
    .await;
    scene.look(&client).await;
    disk.clear();
    load.wait_for_more("batches again", 12, |told| &told.acked).await;

    // To the last byte: what was called for cannot be stored, and the provider is left alone after a while.
    disk.fill(0);
    load.wait_for_more("refusals of a full disk", 20, |told| &told.refused).await;
    wait_until_it("readiness to say so", async || ready().await.1["status"] != "ok").await;
    let full = Instant::now();
    // Longer than a session lives without a beat: the time itself is the fault.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let calls = doubles.ledger().totals().calls;
    wait_until("calls under way to be answered", || doubles.ledger().totals().in_flight == 0);
    assert!(doubles.ledger().totals().calls <= calls, "nothing is called that could not be stored");
    println!("the disk was full for {:?}", full.elapsed());
    disk.clear();
    let last_fault = Instant::now();
    load.wait_for_more("batches once more", 12, |told| &told.acked).await;
    load.end().await;
    scene.drain(&client, last_fault).await;
    assert_eq!(ready().await, (StatusCode::OK, serde_json::json!({"status": "ok"})));
    scene.stop(server);
    let allowed = Allowed { deaths: 1, slots: SLOTS, refusals: &[507], ..Allowed::NOTHING };
    table::conclude("disk full, mark and last byte", seed, &scene.history, &allowed);
}
