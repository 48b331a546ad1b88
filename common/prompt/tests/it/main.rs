//! The crate seen from outside: templates in, checked rows, prompts and judgements out.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod format;
#[cfg(test)]
mod judging;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod rendering;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod support;
#[cfg(test)]
mod vendored;
