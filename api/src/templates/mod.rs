//! Templates over HTTP: made, versioned, labelled, read, deleted, rendered; and [`resolve()`], which every request that names a template goes through.

mod cache;
mod condition;
mod labels;
mod render;
mod resolve;
mod routes;
mod view;

pub(crate) use cache::TemplateCache;
pub(crate) use render::TemplateRefView;
pub(crate) use resolve::{TemplateArg, Which, parse, resolve};
pub(crate) use routes::routes;
