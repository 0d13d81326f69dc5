//! The machine that measures: what its numbers must not be read without.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::process::cores;

/// Holds a file for each flaw of processors, with what is done about it here.
const FLAWS: &str = "/sys/devices/system/cpu/vulnerabilities";

/// A machine. What the system does not tell is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of the first processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    /// That may be used.
    cores: usize,
    /// Release of Linux.
    kernel: String,
    /// The flaws that this processor has, and in short what is done about each: the rest of the text is of settings that follow from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mitigations: Option<BTreeMap<String, String>>,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// When the kernel does not tell its release.
    pub(crate) fn read() -> io::Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self { cpu: model(&cpuinfo), cores: cores(), kernel: kernel.trim().to_owned(), mitigations: flaws() })
    }

    /// The one that a line of results names; `None` when it is a result.
    pub(crate) fn of(line: &Value) -> Option<Self> {
        Self::deserialize(line.get("machine")?).ok()
    }

    /// The line that names it.
    pub(crate) fn json(&self) -> Value {
        json!({ "machine": self })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        let plural = if self.cores == 1 { "" } else { "s" };
        write!(f, "{cpu}, {} core{plural}, Linux {}", self.cores, self.kernel)?;
        let Some(mitigations) = &self.mitigations else { return Ok(()) };
        if mitigations.is_empty() {
            return f.write_str("; no mitigations");
        }
        let each: Vec<String> = mitigations.iter().map(|(flaw, done)| format!("{flaw}: {done}")).collect();
        write!(f, "; mitigations: {}", each.join("; "))
    }
}

/// The first model that `/proc/cpuinfo` names; not every architecture does.
fn model(cpuinfo: &str) -> Option<String> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(name, _)| name.trim() == "model name").map(|(_, model)| model.trim().to_owned())
}

fn flaws() -> Option<BTreeMap<String, String>> {
    let files = std::fs::read_dir(FLAWS).ok()?.filter_map(Result::ok);
    let read = files.filter_map(|file| {
        let text = std::fs::read_to_string(file.path()).ok()?;
        Some((file.file_name().into_string().ok()?, done(&text)?))
    });
    Some(read.collect())
}

/// The gist of what such a file says; `None` when the processor has not got the flaw.
fn done(text: &str) -> Option<String> {
    let gist = text.split(';').next().unwrap_or(text).trim();
    (gist != "Not affected").then(|| gist.trim_start_matches("Mitigation: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epyc() -> Machine {
        let mitigations = [("retbleed", "untrained return thunk"), ("mds", "Vulnerable")];
        let owned = mitigations.map(|(flaw, done)| (flaw.to_owned(), done.to_owned()));
        Machine { cpu: Some("AMD EPYC".into()), cores: 2, kernel: "6.18.44".into(), mitigations: Some(owned.into()) }
    }

    #[test]
    fn the_first_model_is_found_where_there_is_one() {
        let text = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(model(text).as_deref(), Some("AMD EPYC"));
        assert_eq!(model("processor\t: 0\nBogoMIPS\t: 243.75\n"), None);
    }

    #[test]
    fn of_a_flaw_remains_what_is_done_about_it() {
        for (text, gist) in [
            ("Not affected\n", None),
            ("Vulnerable\n", Some("Vulnerable")),
            ("Mitigation: Retpolines; IBPB: conditional; STIBP: disabled\n", Some("Retpolines")),
            (
                "Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable\n",
                Some("Vulnerable: Clear CPU buffers attempted, no microcode"),
            ),
        ] {
            assert_eq!(done(text).as_deref(), gist, "{text}");
        }
    }

    #[test]
    fn a_machine_is_one_line_of_json_and_one_of_text() {
        let line = epyc().json();
        assert_eq!((line["machine"]["cpu"].as_str(), line["machine"]["cores"].as_u64()), (Some("AMD EPYC"), Some(2)));
        assert_eq!(Machine::of(&line), Some(epyc()));
        assert_eq!(Machine::of(&json!({ "scenario": "stage" })), None);
        let text = "AMD EPYC, 2 cores, Linux 6.18.44; mitigations: mds: Vulnerable; retbleed: untrained return thunk";
        assert_eq!(epyc().to_string(), text);
    }

    #[test]
    fn what_the_system_does_not_tell_is_absent() {
        let machine = Machine { cpu: None, cores: 1, mitigations: None, ..epyc() };
        assert_eq!(machine.json(), json!({ "machine": { "cores": 1, "kernel": "6.18.44" } }));
        assert_eq!(machine.to_string(), "unknown processor, 1 core, Linux 6.18.44");
        assert_eq!(Machine::of(&machine.json()), Some(machine));
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::read().unwrap();
        assert!(!machine.kernel.is_empty() && machine.cores > 0, "{machine}");
    }
}
