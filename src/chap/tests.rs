//! Known answers. Where the standard publishes one it is that; the others come from an independent computation with Python's hmac,
//! hashlib, zlib and pow, by the formulas of Base 8.13.5:
//!
//!     key   = hmac(secret, nqn + b"NVMe-over-Fabrics")                       (hh = 00: the secret itself)
//!     Ca    = hmac(hash(KS), C), KS = pow(2, x * y, p), x and y below         (no group: C)
//!     R     = hmac(key, Ca + pack("<IHB", S, T, 0) + role + nqn1 + b"\0" + nqn2)

extern crate std;

use super::*;
use crate::group::Private;
use core::convert::Infallible;
use ibid_wire::nvme_tcp::{AuthHash, DhGroup};
use std::{format, string::String, vec, vec::Vec};

const HOST: &str = "nqn.2014-08.org.example:host";
const DISK: &str = "nqn.2014-08.org.example:disk";
/// Keys 00 01 … 1f, 64 65 … 93, 3f 3e … 00.
const SECRETS: [(&str, &str); 4] = [
    (
        "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    ),
    (
        "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:",
        "7863a339224010efc7e5b0e158ccc774c033e64ca11d995ba94d47581974e625",
    ),
    (
        "DHHC-1:02:ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoOEhYaHiImKi4yNjo+QkZKTvGwQfg==:",
        "6341da176766d98bc3950dba8d62de1a6d34ab5df0c3ff701b3bd29d490e648da9188e6fdb28d9dda39700300e7af210",
    ),
    (
        "DHHC-1:03:Pz49PDs6OTg3NjU0MzIxMC8uLSwrKikoJyYlJCMiISAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIBALUzYbU=:",
        "3b9b5fb43de9c510a6e015331746a8fce423dfda57c79ff5a66119e4e9189994f1da41133a29427d29c4cc71592510e4c37372377279caf81cc65ae28a3d9455",
    ),
];
/// SHA-256 of "host" and of "controller".
const X: &str = "4740ae6347b0172c01254ff55bae5aff5199f4446e7f6d643d40185b3f475145";
const Y: &str = "c1472135b14c77c8bef98e73f70208325fa0dcf1e6bd668ae9b31a9cea295fe7";
/// By group: SHA-256 of 2^x, SHA-384 of 2^(xy), both as long as the prime.
const GROUPS: [(&str, &str); 5] = [
    (
        "f3b53ee984e219f8c3c0555bf074e28c64ca7f8a91c1225df82ba7261bd1f078",
        "59a0fef536f52c4a1412fcfccdb2bac8602daca29f5438ebe20a371df812523fabc92f48382eca3d0389c790734f4a03",
    ),
    (
        "da0a54e502d0aa11eb7c20a47a30e8ac15f48da955d6ad408cb7326d75de1967",
        "09958732386df491dc152ec0d72b5103ac46fb108911e16bbe9d0a7b71ecff20139f88e3fa640ffa65d0ddb4a07d9e77",
    ),
    (
        "a02c05f675450f5ee70191d0956776f00f9b07d1c0a456af239c710767da5677",
        "7c9244da94d47b812ce22d9bba95bf06d5226371d87eb0514ba9f51047b3301fd0c647d974e629a1bd2c1b07eb34e2ad",
    ),
    (
        "b4e1331a4126ea6b4fd5fe33d75e1396eb5bc2f2bc41586c2ff3f6b20e62f0fe",
        "67525ecd785ff362b80f4c816369f981399a1c15ecec0804767a5647f629229dcebac661383f331c5fdf0574f0d62f4c",
    ),
    (
        "97385cb77e347fabfd2f7e30a4fca8a647148cd442da3189bafc028fc5a36488",
        "8babd330d397fee595fd20a52bfa707ec485bf93ee9f2700af34183740282bd5d0ac61d29ddf81a8e8b46fddb49a1fa2",
    ),
];
/// Hash, group, role, response: C is as many bytes as the hash has, each its identifier; S = 01020304h, T = 0506h. The host has the second
/// secret, the controller the fourth.
const RESPONSES: [(u8, u8, Role, &str); 12] = [
    (1, 0, Role::Host, "f54525447b875b8bdad5014a68c3b269a71305730ca58055652ea71a3b3a028a"),
    (1, 0, Role::Controller, "0f89b152ab293ebf3361a4d656d1afec88e2e498e88325167c9bcc769ee9859a"),
    (1, 1, Role::Host, "4cda84fc680a9666aa86e48b2c9b0201a9ff45cd0e00227bfbc4c1af7581ae02"),
    (1, 1, Role::Controller, "fbc4b233c19ae5b0f96b2842ac7612864edb46e7da77bcc5c8eb5fe34009d927"),
    (
        2,
        0,
        Role::Host,
        "63a8341963123e1220311573e8d6c3bf8bf33690af667e69cff9b02d94007f903dcd0ad61fffe9dcc82a0d2205b78656",
    ),
    (
        2,
        0,
        Role::Controller,
        "25733294bbb8c9ab2c591a2fd33166a3b85541bf871f58035d111d43c732101f3cf23c60d51b7280139c762e93d9bb1f",
    ),
    (
        2,
        1,
        Role::Host,
        "c7d832c0b8abbe7c1fe98ddf4e110b5a1b501745c21bbf1a437a186d975400df1f5f34d432c499bd124dddad4df9dfe5",
    ),
    (
        2,
        1,
        Role::Controller,
        "f74c00b9a969d98bdd97d8cea60ad4374f3a2361aa077a13c189336c6d3052c3ce59c94e247c82fbe41da79b06c7ef26",
    ),
    (
        3,
        0,
        Role::Host,
        "d868d6ec2b7484f842a9e17bc52fec90371211cd27ea3d1f7609cbe340d07c7da1714550676299b88eca58ad6d9fcc806a3ea97620196a74f3bc636c5cc4f5dd",
    ),
    (
        3,
        0,
        Role::Controller,
        "76c1119faf4adc2d0a0e52e27d7db9b812e938f545d0bafb140cff8009f408867d02f5b651d2d8f5ebe68b82310ce626f0241e3a7961f86982043dda3c8f1900",
    ),
    (
        3,
        1,
        Role::Host,
        "bdea662fb6227fba5f7f827256b9614cdfead7fd62758da36b86227703965f8ce6d76bd8a181581117bfd1da68f3f31eba24c22d710c0a43f73f58b984e30e80",
    ),
    (
        3,
        1,
        Role::Controller,
        "4f63f72457b8cdb4f039ccea0b961ae7e30057acae7a928c87488b160833a92016b1e4cddc0a49f91d6fc87c1563fdfd244b7c763a161114430fec291a36df35",
    ),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// An exponent with these last bytes.
fn private(text: &str) -> Private {
    let Ok(private) = Private::new(|out: &mut [u8]| {
        let bytes = unhex(text);
        out.fill(0);
        let start = out.len() - bytes.len();
        out[start..].copy_from_slice(&bytes);
        Ok::<_, Infallible>(())
    });
    private
}

fn groups() -> impl Iterator<Item = DhGroup> {
    DhGroup::ALL.into_iter().filter(|group| *group != DhGroup::Null)
}

#[test]
fn secrets_become_the_keys_of_their_owners() {
    for (text, key) in SECRETS {
        assert_eq!(hex(Secret::parse(text).unwrap().key(HOST).bytes()), key, "{text}");
    }
    // The example of the standard (Base 8.13.5.8), with each way to bind it.
    for hh in 0..=3 {
        let text = format!("DHHC-1:0{hh}:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:");
        let secret = Secret::parse(&text).unwrap();
        assert_eq!(secret.key(HOST).bytes().len(), [32, 32, 48, 64][hh]);
        assert!(secret.has_key_of(&Secret::parse(&text.replace(":00:", ":01:")).unwrap()));
        assert!(!secret.has_key_of(&Secret::parse(SECRETS[0].0).unwrap()));
    }
}

#[test]
fn what_is_no_secret_is_refused_and_not_repeated() {
    let good = SECRETS[1].0;
    let long = format!("{}{}:", "DHHC-1:01:", "A".repeat(96));
    let cases = [
        ("", SecretError::Form),
        ("secret", SecretError::Form),
        ("DHHC-1", SecretError::Form),
        ("DHHC-1:01", SecretError::Form),
        ("DHHC-1:01:", SecretError::Form),
        ("DHHC-1:01::", SecretError::Length),
        (good.trim_end_matches(':'), SecretError::Form),
        (&good.replace("DHHC-1", "DHHC-2"), SecretError::Form),
        (&good.replace(":01:", ":04:"), SecretError::Binding),
        (&good.replace(":01:", ":1:"), SecretError::Binding),
        (&good.replace("fi", "f*"), SecretError::Base64),
        (&good.replace("fi", "fj"), SecretError::Checksum),
        (&good.replace("AAEC", "AAED"), SecretError::Checksum),
        (&good.replace("AAEC", ""), SecretError::Length),
        (&format!("{good}\n"), SecretError::Form),
        (&format!(" {good}"), SecretError::Form),
        (&long, SecretError::Form),
        (&"DHHC-1:".repeat(1000), SecretError::Form),
        (&good.replace("AA", "ÄÄ"), SecretError::Base64),
    ];
    for (text, error) in cases {
        assert_eq!(Secret::parse(text).unwrap_err(), error, "{text}");
    }
    let secret = Secret::parse(good).unwrap();
    assert_eq!(format!("{secret:?} {:?}", secret.key(HOST)), "Secret Key");
    assert_eq!(SECRETS[3].0.len(), SECRET_TEXT_MAX);
}

#[test]
fn groups_give_the_values_and_keys_they_must() {
    for (group, (value, agreed)) in groups().zip(GROUPS) {
        let (x, y) = (private(X), private(Y));
        let sum = response::hashed(AuthHash::Sha256, x.public(group).bytes());
        assert_eq!(hex(sum.bytes()), value, "{group:?}");
        for (own, other) in [(&x, &y), (&y, &x)] {
            let digest = own.agree(group, AuthHash::Sha384, other.public(group).bytes()).unwrap();
            assert_eq!(hex(digest.bytes()), agreed, "{group:?}");
        }
    }
}

#[test]
fn responses_are_those_of_the_standard() {
    let agreed = |hash| {
        private(X).agree(DhGroup::Ffdhe2048, hash, private(Y).public(DhGroup::Ffdhe2048).bytes())
    };
    for (hash, group, role, response) in RESPONSES {
        let hash = AuthHash::new(hash).unwrap();
        let agreed = agreed(hash).filter(|_| group != 0);
        let (secret, own_nqn, other_nqn) = match role {
            Role::Host => (SECRETS[1].0, HOST, DISK),
            Role::Controller => (SECRETS[3].0, DISK, HOST),
        };
        let exchange = Exchange {
            hash,
            role,
            challenge: &vec![hash as u8; hash.bytes()],
            agreed: agreed.as_ref(),
            seqnum: 0x0102_0304,
            transaction: 0x0506,
            own_nqn,
            other_nqn,
        };
        let key = Secret::parse(secret).unwrap().key(own_nqn);
        let digest = exchange.response(&key);
        assert_eq!(hex(digest.bytes()), response, "{hash:?} {group} {role:?}");
        assert!(digest.matches(&unhex(response)));
        assert!(!digest.matches(&unhex(response)[1..]));
        let mut other = unhex(response);
        other[hash.bytes() - 1] ^= 1;
        assert!(!digest.matches(&other));
        // Everything in it counts.
        for changed in [
            Exchange { seqnum: 1, ..exchange },
            Exchange { transaction: 1, ..exchange },
            Exchange { challenge: &vec![9; hash.bytes()], ..exchange },
            Exchange { own_nqn: other_nqn, other_nqn: own_nqn, ..exchange },
            Exchange {
                role: if role == Role::Host { Role::Controller } else { Role::Host },
                ..exchange
            },
        ] {
            assert!(!changed.response(&key).matches(digest.bytes()));
        }
    }
}

/// A value that anyone could know the result of is none: 0, 1, p - 1, and what is not below p.
#[test]
fn weak_values_are_refused_in_every_group() {
    for group in groups() {
        let prime = unhex(match group {
            DhGroup::Null => unreachable!(),
            DhGroup::Ffdhe2048 => primes::FFDHE2048,
            DhGroup::Ffdhe3072 => primes::FFDHE3072,
            DhGroup::Ffdhe4096 => primes::FFDHE4096,
            DhGroup::Ffdhe6144 => primes::FFDHE6144,
            DhGroup::Ffdhe8192 => primes::FFDHE8192,
        });
        assert_eq!(prime.len(), group.bytes());
        assert_eq!((&prime[..8], &prime[prime.len() - 8..]), (&[0xff; 8][..], &[0xff; 8][..]));
        let less = |by: u8| {
            let mut value = prime.clone();
            *value.last_mut().unwrap() -= by;
            value
        };
        let mut one = vec![0; group.bytes()];
        one[group.bytes() - 1] = 1;
        let mut longer = vec![0; group.bytes() + 1];
        longer[group.bytes()] = 2;
        let weak = [
            vec![],
            vec![0],
            vec![0; group.bytes()],
            vec![1],
            one,
            less(1),
            less(0),
            vec![0xff; group.bytes()],
            longer,
        ];
        for value in weak {
            assert!(
                private(X).agree(group, AuthHash::Sha256, &value).is_none(),
                "{group:?} {value:x?}"
            );
        }
        // Their neighbours are not weak, and leading zeroes may be left out.
        assert!(private(X).agree(group, AuthHash::Sha256, &less(2)).is_some());
        let two = private(X).agree(group, AuthHash::Sha256, &[2]).unwrap();
        let public = response::hashed(AuthHash::Sha256, private(X).public(group).bytes());
        assert!(two.matches(public.bytes()));
    }
    assert!(private(X).agree(DhGroup::Null, AuthHash::Sha256, &[2]).is_none());
}

#[test]
fn work_is_done_with_the_chance_it_is_given() {
    let mut given = 0_u8;
    let mut random = |out: &mut [u8]| {
        given += 1;
        out.fill(given);
        Ok::<_, Infallible>(())
    };
    let Ok(Done::Keys(keys)) = (Work::Keys { group: DhGroup::Ffdhe2048 }).run(&mut random) else {
        panic!("keys were asked for");
    };
    assert_eq!((keys.challenge, keys.seqnum), ([1; 64], 0x0202_0202));
    assert_eq!(keys.public.bytes().len(), 256);
    let Ok(Done::Keys(none)) = (Work::Keys { group: DhGroup::Null }).run(&mut random) else {
        panic!("keys were asked for");
    };
    assert_eq!((none.challenge, none.public.bytes().len()), ([4; 64], 0));
    let host = private(X);
    let expected = host.agree(DhGroup::Ffdhe2048, AuthHash::Sha512, keys.public.bytes()).unwrap();
    let value = host.public(DhGroup::Ffdhe2048);
    let work = Work::agree(DhGroup::Ffdhe2048, AuthHash::Sha512, keys.private, value.bytes());
    let Ok(Done::Agreed(Some(agreed))) = work.run(&mut random) else { panic!("they agree") };
    assert!(agreed.matches(expected.bytes()));
    let work = Work::agree(DhGroup::Ffdhe8192, AuthHash::Sha512, private(X), &[2; 1025]);
    assert!(matches!(work.run(&mut random), Ok(Done::Agreed(None))));
    let failing = Work::Keys { group: DhGroup::Null }.run(|_| Err("no chance"));
    assert_eq!(failing.unwrap_err(), "no chance");
}
