use std::sync::atomic::{AtomicU32, Ordering};

use promptmill_ports::StoreError;

use super::*;

#[tokio::test(start_paused = true)]
async fn many_watchers_cost_one_count_a_second() {
    let slot: Slot<u32> = Slot::default();
    let made = AtomicU32::new(0);
    let get = || {
        slot.get(async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(made.fetch_add(1, Ordering::Relaxed))
        })
    };
    let all = futures_util::future::join_all((0..100).map(|_| get())).await;
    assert!(all.into_iter().all(|value| value.unwrap() == 0));
    tokio::time::advance(Duration::from_millis(600)).await;
    assert_eq!(get().await.unwrap(), 0);
    // Its age counts from when it was begun: what it says is at most a second old.
    tokio::time::advance(Duration::from_millis(101)).await;
    assert_eq!(get().await.unwrap(), 1);
    assert!(!slot.is_idle());
    tokio::time::advance(Duration::from_millis(701)).await;
    assert!(slot.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_failed_count_is_told_and_not_kept() {
    let slot: Slot<u32> = Slot::default();
    assert!(slot.get(async { Err(StoreError::unavailable("away")) }).await.is_err());
    assert_eq!(slot.get(async { Ok(1) }).await.unwrap(), 1);
}
