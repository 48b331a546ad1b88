//! The OpenAPI document, a page to try it, and a page for each kind of error. Nothing here needs a key, or anything from elsewhere.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use utoipa_swagger_ui::SwaggerUi;

use crate::extract::Path;
use crate::problem::{Problem, ProblemId};
use crate::state::App;

/// What the page may load and do: its own files and calls to this service. Its style sheet sets styles from script.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// The routes of this group.
pub(crate) fn routes() -> Router<App> {
    let page: Router<App> = SwaggerUi::new("/docs").url("/openapi.json", crate::openapi::document()).into();
    page.route_layer(from_fn(page_headers)).route("/problems/{code}", get(problem_page))
}

async fn page_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

/// What an error means, for people.
async fn problem_page(Path(code): Path<String>) -> Result<impl IntoResponse, Problem> {
    let id = ProblemId::of_code(&code).ok_or(ProblemId::NotFound)?;
    Ok(Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<h1>{title}</h1>\n\
         <p><code>{code}</code>, HTTP status {status}</p>\n<p>{explanation}</p>\n</html>\n",
        title = id.title(),
        code = id.code(),
        status = id.status().as_u16(),
        explanation = id.explanation(),
    )))
}
