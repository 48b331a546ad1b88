//! The corpus of hostile inputs against the real server, case by case: the expected status or outcome, bounded processor time and
//! memory, a server that lives, and canaries nobody touched. How a case is written is in corpus/README.md.

mod case;
mod expression;
mod provider;
mod send;
mod stand;

use case::Case;
use stand::Stand;

const LOOPBACK: &str = "127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_refused_or_rendered_within_bounds() {
    let mut stand = Stand::listening(LOOPBACK);
    for case in Case::all("templates") {
        stand.run(&case, async |stand, failures| send::template(stand, &case, failures).await).await;
    }
    stand.finish("templates");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_refused_or_judge_within_bounds() {
    let mut stand = Stand::listening(LOOPBACK);
    for case in Case::all("schemas") {
        stand.run(&case, async |stand, failures| send::schema(stand, &case, failures).await).await;
    }
    stand.finish("schemas");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_taken_or_told_line_by_line() {
    let mut stand = Stand::listening(LOOPBACK);
    let mut drafts = send::Drafts::default();
    for case in Case::all("rows") {
        stand.run(&case, async |stand, failures| send::rows(stand, &case, &mut drafts, failures).await).await;
    }
    stand.finish("rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_become_an_outcome_whatever_they_are() {
    let mut stand = Stand::listening(LOOPBACK);
    for case in Case::all("replies") {
        stand.run(&case, async |stand, failures| send::reply(stand, &case, failures).await).await;
    }
    stand.finish("replies");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_no_client_sends_are_refused() {
    let mut stand = Stand::listening(LOOPBACK);
    let (held, sent): (Vec<Case>, Vec<Case>) =
        Case::all("http").into_iter().partition(|case| case.get("held").is_some());
    let mut waiting = Vec::new();
    for case in held {
        waiting.push((send::held(&stand, &case).await, case));
    }
    for case in sent {
        stand.run(&case, async |stand, failures| send::http(stand, &case, failures).await).await;
    }
    for (stream, case) in waiting {
        stand.run(&case, async |_, failures| send::read_answer(stream, &case, failures).await).await;
    }
    stand.finish("http");
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_lead_nowhere_they_must_not() {
    // Whoever listens beyond loopback may not name receivers there; whoever listens on it may.
    for (policy, address) in [("public", "0.0.0.0:0"), ("loopback", LOOPBACK)] {
        let mut stand = Stand::listening(address);
        let mut cases = Case::all("urls");
        cases.retain(|case| case.word("policy") == Some(policy));
        // Brings in the code of this path, megabytes of it in a debug build, which would be counted to whichever case comes first.
        send::url(&stand, &cases[0], &mut Vec::new()).await;
        for case in &cases {
            stand.run(case, async |stand, failures| send::url(stand, case, failures).await).await;
        }
        stand.finish(policy);
    }
}
