//! Stored rows held against another template than the one they were checked against.

use promptmill_prompt::Template;
use promptmill_rowio::{RowContent, RowProblem, StoredRow};

/// A stored row, checked and rendered against another template; rows of messages stay as they are.
///
/// # Errors
/// What does not fit.
pub fn rechecked(template: &Template, row: StoredRow) -> Result<StoredRow, Vec<RowProblem>> {
    let RowContent::Variables(json) = &row.content else { return Ok(row) };
    let variables = template.check(json).map_err(|problems| {
        let told = problems.into_iter().map(|problem| problem_at(&problem.pointer, problem.message));
        told.collect::<Vec<_>>()
    })?;
    template.render(&variables).map_err(|error| vec![problem_at("", error.to_string())])?;
    Ok(StoredRow::of_variables(row.custom_id, variables.to_json()))
}

/// What is said of a row that brings a variable which its run gives it.
pub fn is_given(name: &str) -> Vec<RowProblem> {
    let reason = "is given by the schedule where rows come from the run before; name it otherwise";
    vec![problem_at(&format!("/{name}"), reason.to_owned())]
}

fn problem_at(pointer: &str, reason: String) -> RowProblem {
    let field = pointer.trim_start_matches('/').to_owned();
    RowProblem { field, pointer: pointer.to_owned(), reason }
}
