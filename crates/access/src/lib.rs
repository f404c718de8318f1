#![doc = include_str!("../README.md")]

mod current;
mod layer;
mod permission;
mod principal;
mod role;
mod rpcs;
mod secret;
mod sieve;
mod token;

pub use current::{acting_as, current, fence, fence_agent, fence_everything, going_on, speaking_as};
pub use layer::{Acting, ActingAs, Acts, Authorize, Authorized, authorize, call_as};
pub use permission::{Permission, Permissions, UnknownPermission};
pub use principal::{Credential, Kind, Principal, Reach};
pub use role::{Role, UnknownRole};
pub use rpcs::{RPCS, Rule, rule};
pub use secret::RootSecret;
pub use sieve::{MOST_NOTED, MOST_NOTED_OF_ONE, Sieve, network};
pub use token::{Keys, Known, Signer, TokenError};
