//! Makes one call, as its job's name says, and then looks for needles in all of its own memory,
//! freed parts included.
//!
//! The needles come with every byte changed and are compared so: looking for one does not put it
//! there.

mod call;
mod memory;

use memory::Search;
use patchbay_plugin::{Failure, Job, Jobs, Retry, Value, json};

struct Seeker;

impl Jobs for Seeker {
    /// As talkative as a plugin can be: what came back goes wherever the data's `end` makes it go.
    fn run(job: Job) -> Result<Value, Failure> {
        let data: Value = job.parse()?;
        let needles = data["needles"].as_array().into_iter().flatten();
        let search = Search::new(needles.filter_map(|text| bytes(text.as_str()?)).collect());
        let said = if job.name == "freed" {
            memory::free(search.needle(0))
        } else {
            call::make(&job.name, &data)
        };
        let found = search.run();
        match data["end"].as_str() {
            Some("fail") => {
                let details = Some(json!({ "said": said }).to_string());
                Err(Failure {
                    details,
                    ..Failure::new("as-asked", said, Retry::Never)
                })
            }
            Some("trap") => panic!("{said}"),
            _ => {
                patchbay_plugin::warn!("{said}");
                println!("{said}");
                patchbay_plugin::progress::report(&json!({ "said": said }).to_string());
                Ok(json!({ "found": found, "said": said }))
            }
        }
    }
}
patchbay_plugin::export_jobs!(Seeker);

/// From hexadecimal digits.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok())
        .collect()
}
