use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test]
async fn little_of_it_runs_at_the_same_time_and_all_of_it_is_done() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    let work = || {
        let at_once = NOW.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::yield_now();
        NOW.fetch_sub(1, Ordering::SeqCst);
        at_once
    };
    let all = futures_util::future::join_all((0..64).map(|_| heavy(work))).await;
    assert!(all.into_iter().all(|at_once| at_once.unwrap() <= AT_ONCE));
    assert_eq!(heavy(|| 7).await.unwrap(), 7);
}
