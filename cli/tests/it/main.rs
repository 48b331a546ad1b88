//! Whole journeys through the binary, and what holds for the workspace as a whole.

mod edges;
mod faults;
mod journeys;
mod kill;
mod llama;
mod memory;
mod support;
