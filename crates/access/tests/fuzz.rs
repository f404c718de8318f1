//! What strangers may present to a process.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{sync::Arc, time::Duration};

use access::{Keys, Kind, Permission, Permissions, Principal, Reach, Role, RootSecret};
use allocation_counter::measure;
use domain::{ManualClock, Timestamp};
use proptest::{prelude::*, sample::subsequence};
use settings::Secret;
use testkit::fuzz::{cases, nearly, text};

fn keys() -> Keys {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    Keys::of(&RootSecret::new(&Secret::new("0123456789abcdef")), clock)
}

fn somebody() -> Principal {
    Principal::of_role(Kind::Key, "key_1", Role::Operator, Reach::Namespace("blue".parse().unwrap()))
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn whoever_is_let_in_is_who_was_signed_for(token in prop_oneof![
        text(),
        nearly(Just(keys().agent_token(&somebody(), "fam_1", Duration::from_hours(1)).unwrap())),
        nearly("[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,64}"),
    ]) {
        let keys = keys();
        if let Ok(known) = keys.anybody(&token, "registry") {
            prop_assert_eq!(&*known.principal, &somebody());
        }
        prop_assert!(keys.process(&token, "registry").is_err(), "an agent's token is no process's");
        let asked = measure(|| drop(keys.anybody(&token, "registry"))).bytes_max;
        prop_assert!(asked < 64 * 1024 + 8 * token.len() as u64, "{asked}");
    }

    #[test]
    fn a_set_of_permissions_reads_as_it_is_written(some in subsequence(Permission::ALL, 0..=Permission::ALL.len()), text in text()) {
        let set: Permissions = some.into_iter().collect();
        prop_assert_eq!(set.to_string().parse(), Ok(set));
        prop_assert_eq!(Permissions::known_of(&format!("{set} {text}")).only(set), set, "what is not known takes nothing away");
        if let Ok(read) = text.parse::<Permissions>() {
            prop_assert_eq!(read.to_string().parse(), Ok(read));
            prop_assert_eq!(Permissions::known_of(&text), read);
        }
    }
}
