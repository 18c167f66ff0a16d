//! The cases of the store suite.

mod differential;
mod docs;
mod entries;
mod feed;
mod rows;

pub use differential::*;
pub use docs::*;
pub use entries::*;
pub use feed::*;
pub use rows::*;
