//! Messages of gRPC that are none, or mean no good, to every RPC there is.

use std::time::Duration;

use contracts::FILE_DESCRIPTOR_SET;
use prost::{
    Message as _,
    bytes::{Buf, BufMut},
};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use reqwest::Method;
use testkit::{TOKEN, fuzz::WORDS};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use super::{Product, admin};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer that goes on for ever is listened to.
const LISTEN: Duration = Duration::from_millis(100);
/// Messages to each RPC.
const EACH: usize = 40;

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// All messages, by their full names.
struct Types(Vec<(String, DescriptorProto)>);

impl Types {
    fn of(files: &FileDescriptorSet) -> Self {
        fn add(all: &mut Vec<(String, DescriptorProto)>, around: &str, message: &DescriptorProto) {
            let name = format!("{around}.{}", message.name());
            message.nested_type.iter().for_each(|inner| add(all, &name, inner));
            all.push((name, message.clone()));
        }
        let mut all = Vec::new();
        for file in &files.file {
            file.message_type.iter().for_each(|message| add(&mut all, &format!(".{}", file.package()), message));
        }
        Self(all)
    }

    fn find(&self, name: &str) -> Option<&DescriptorProto> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, message)| message)
    }

    /// A message with some of its fields, of which some are not as they should be.
    fn message(&self, name: &str, depth: u8, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(message) = self.find(name) else { return bytes };
        for field in &message.field {
            let times = if rng.random_ratio(3, 4) { 1 } else { rng.random_range(0..4) };
            for _ in 0..times {
                self.field(field, depth, rng, &mut bytes);
            }
        }
        bytes
    }

    fn field(&self, field: &FieldDescriptorProto, depth: u8, rng: &mut StdRng, to: &mut Vec<u8>) {
        let number = if rng.random_ratio(1, 40) { rng.random_range(1..1 << 29) } else { field.number() as u64 };
        let wire = match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => 1,
            Type::Float | Type::Fixed32 | Type::Sfixed32 => 5,
            Type::String | Type::Bytes | Type::Message => 2,
            _ => 0,
        };
        let wire = if rng.random_ratio(1, 40) { rng.random_range(0..8) } else { wire };
        varint(number << 3 | wire, to);
        match wire {
            0 => varint(number_of(rng), to),
            1 => to.extend(number_of(rng).to_le_bytes()),
            5 => to.extend((number_of(rng) as u32).to_le_bytes()),
            2 => {
                let inner = match field.r#type() {
                    Type::Message if depth > 0 => self.message(field.type_name(), depth - 1, rng),
                    _ => text_of(rng),
                };
                let length = if rng.random_ratio(1, 60) { number_of(rng) } else { inner.len() as u64 };
                varint(length, to);
                to.extend(inner);
            }
            // What there is no more, and what there never was.
            _ => {}
        }
    }
}

fn number_of(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..6) {
        0 => 0,
        1 => u64::MAX >> rng.random_range(0..64),
        2 => (i64::MIN >> rng.random_range(0..64)).cast_unsigned(),
        _ => rng.random_range(0..12),
    }
}

fn text_of(rng: &mut StdRng) -> Vec<u8> {
    const OURS: [&str; 12] = [
        "default",
        "agt_01jx4q3nd8e5r0cawm6n8gs3kt",
        "exe_01jx4q3nd8e5r0cawm6n8gs3kt",
        "wf_01jx4q3nd8e5r0cawm6n8gs3kt",
        "msg_01jx4q3nd8e5r0cawm6n8gs3kt",
        "ins_01jx4q3nd8e5r0cawm6n8gs3kt",
        "exe_01jx4q3nd8e5r0cawm6n8gs3kt/a/1",
        "echo",
        "{}",
        "[1, 2, {\"a\": null}]",
        "a.b",
        "a.*.#",
    ];
    match rng.random_range(0..8) {
        0..4 => OURS.choose(rng).expect("some").as_bytes().to_vec(),
        4..6 => WORDS.choose(rng).expect("some").as_bytes().to_vec(),
        6 => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
        _ => "[".repeat(rng.random_range(0..20_000)).into_bytes(),
    }
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 128 {
        to.push((number % 128) as u8 | 128);
        number /= 128;
    }
    to.push(number as u8);
}

/// What becomes of one message to an RPC, and of whatever else is said after it.
async fn called(channel: &Channel, path: &str, messages: Vec<Vec<u8>>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(futures::stream::iter(messages));
    let token = format!("Bearer {TOKEN}").parse().expect("it can be sent");
    request.metadata_mut().insert("authorization", token);
    request.set_timeout(PATIENCE);
    let path = path.parse().expect("a path");
    let answers = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        while let Ok(answer) = timeout(LISTEN, answers.message()).await {
            if answer?.is_none() {
                break;
            }
        }
        Ok(())
    };
    // Some wait for more before they answer at all.
    timeout(PATIENCE / 30, answers).await.unwrap_or(Ok(()))
}

/// What is no fault of ours.
fn is_answer(status: &Status) -> bool {
    // So it is told by tonic itself.
    let is_undecodable = status.code() == Code::Internal && status.message().contains("failed to decode Protobuf");
    is_undecodable || !matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable)
}

async fn messages_that_mean_no_good(mut product: Product, address: &str, services: &[&str]) {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own");
    let types = Types::of(&files);
    let times = std::env::var("TROUPE_FUZZ").map_or(1, |times| times.parse().expect("a whole number"));
    let seed = if times == 1 { 1 } else { rand::random() };
    let mut rng = StdRng::seed_from_u64(seed);
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .http2_max_header_list_size(contracts::MAX_HEAD_BYTES)
        .connect_lazy();
    let mut methods = 0;
    for file in &files.file {
        for service in file.service.iter().filter(|service| services.contains(&service.name())) {
            for method in &service.method {
                methods += 1;
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                for number in 0..EACH * times {
                    let count = if method.client_streaming() { 3 } else { 1 };
                    let messages: Vec<Vec<u8>> = (0..count)
                        .map(|_| match number % 8 {
                            0 => (0..rng.random_range(0..64)).map(|_| rng.random()).collect(),
                            _ => types.message(method.input_type(), 4, &mut rng),
                        })
                        .collect();
                    if let Err(status) = called(&channel, &path, messages.clone()).await {
                        let said: Vec<_> = messages.iter().map(|message| message.escape_ascii().to_string()).collect();
                        assert!(is_answer(&status), "{status:?}: seed {seed}: {path} with {said:.3000?}");
                    }
                }
            }
        }
    }
    assert!(methods > 3, "{methods}");
    admin(&product.api(), Method::GET, "/api/v1/messages", None).await.expect(200);
    product.is_well();
}

const COMMUNICATION: [&str; 5] =
    ["AgentSessionService", "TaskService", "MessageService", "DeadLetterService", "TopicService"];
const OTHERS: [&str; 4] = ["RegistryService", "WorkflowService", "ExecutionService", "AgentRunnerService"];

#[tokio::test]
async fn messages_that_mean_no_good_hurt_nobody_at_home() {
    let product = Product::embedded().await;
    let address = product.grpc().to_string();
    messages_that_mean_no_good(product, &address, &[&COMMUNICATION[..], &OTHERS].concat()).await;
}

#[tokio::test]
async fn messages_that_mean_no_good_hurt_nobody_in_a_cluster() {
    let product = Product::cluster().await;
    let address = product.grpc().to_string();
    messages_that_mean_no_good(product, &address, &COMMUNICATION).await;
}
