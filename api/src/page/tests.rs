use super::*;

#[test]
fn a_cursor_leads_back_to_its_position_and_only_in_its_list() {
    let given = cursor("templates", "naïve");
    let position = super::position::<String>;
    assert_eq!(position("templates", &given).unwrap(), "naïve");
    assert!(position("batches", &given).is_err());
    for at in 0..given.len() {
        let mut changed = given.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_ne!(position("templates", &changed).ok().as_deref(), Some("naïve"));
    }
    assert!(position("templates", "").is_err());
}

#[test]
fn a_made_up_position_that_is_none_of_the_list_is_a_mistake_of_the_caller() {
    let made_up = cursor("items", "-1");
    assert_eq!(position::<u32>("items", &made_up).unwrap_err().id(), ProblemId::BadRequest);
}

#[test]
fn the_next_link_keeps_the_filters() {
    let uri: Uri = "/v1/batches?state=running&cursor=old&limit=2".parse().unwrap();
    assert_eq!(next_link(&uri, "new"), "</v1/batches?state=running&limit=2&cursor=new>; rel=\"next\"");
    assert_eq!(next_link(&"/v1/x".parse().unwrap(), "c"), "</v1/x?cursor=c>; rel=\"next\"");
}
