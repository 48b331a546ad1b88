//! The OpenAPI document: put together from the routes, with what is true of all of them added in one place.

use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder};

use crate::problem::{FieldError, ProblemBody};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "promptmill",
        description = "Bulk LLM generation: templates, batches of rows, results as they settle.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemBody, FieldError)),
    tags(
        (name = "service", description = "Health, limits and the caller"),
        (name = "keys", description = "API keys"),
        (name = "templates", description = "Templates and their versions"),
        (name = "batches", description = "Batches: rows in, steering, progress"),
        (name = "results", description = "Outcomes and items"),
        (name = "schedules", description = "Batches that recur, and what became of each tick"),
        (name = "row-sets", description = "Rows that are stored once and run again and again"),
        (name = "generations", description = "One prompt, answered at once"),
    ),
)]
struct Base;

const KEY: &str = "api_key";

/// The OpenAPI 3.1 document of every route that is meant for programs.
pub fn document() -> OpenApi {
    let mut document = Base::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.merge(crate::health::routes().into_openapi());
    document.merge(crate::results::open_routes().into_openapi());
    let mut keyed = crate::keyed_routes().into_openapi();
    for operation in keyed.paths.paths.values_mut().flat_map(operations) {
        operation.security.get_or_insert_with(|| vec![SecurityRequirement::new(KEY, [""; 0])]);
    }
    for post in keyed.paths.paths.values_mut().filter_map(|item| item.post.as_mut()) {
        post.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
    document.merge(keyed);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for parameter in operation.parameters.iter_mut().flatten() {
            let RefOr::T(parameter) = parameter else { continue };
            parameter.schema = parameter.schema.as_ref().map(crate::shapes::never_null);
        }
        operation.responses.responses.insert("default".to_owned(), RefOr::T(problem()));
    }
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.bearer_format = Some("pmk_...".to_owned());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(scheme));
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn idempotency_key() -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The same key with the same request gives the same answer for 24 hours."))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                // As [`crate::idempotency`] reads it: in quotes or bare, without the blanks around it.
                .pattern(Some(
                    r#"^[ \t]*("[ -~]{1,255}"|[!#-~]([ -~]{0,253}[!-~])?|"([ -~]{0,253}[!#-~])?)[ \t]*$"#,
                ))
                .build(),
        ))
        .build()
}

/// Any error of any operation.
fn problem() -> utoipa::openapi::Response {
    let integer = || ObjectBuilder::new().schema_type(Type::Integer);
    ResponseBuilder::new()
        .description("A problem (RFC 9457)")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
        )
        .header(
            "Retry-After",
            HeaderBuilder::new()
                .description(Some("Seconds until it may work"))
                .schema(Some(integer().minimum(Some(0))))
                .build(),
        )
        .build()
}
