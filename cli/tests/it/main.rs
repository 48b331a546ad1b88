//! Whole journeys through the binary, and what holds for the workspace as a whole.

mod faults;
mod journeys;
mod kill;
mod memory;
mod support;
