//! What the earthquake example must come to, computed here from its data file and nothing of Troupe's.

use serde_json::Value;

/// A zone's figures, and the level that the three voters' rules give by majority.
pub(super) struct Zone {
    pub(super) name: &'static str,
    pub(super) level: &'static str,
    pub(super) count: usize,
    pub(super) strongest: f64,
    pub(super) felt: f64,
    pub(super) urgency: f64,
}

pub(super) struct Expected {
    pub(super) alerts: usize,
    pub(super) zones: Vec<Zone>,
    earthquakes: usize,
    significant: usize,
    strongest: f64,
    median: f64,
    felt: f64,
}

struct Quake {
    magnitude: f64,
    felt: f64,
    depth: f64,
    longitude: f64,
    latitude: f64,
}

impl Quake {
    fn urgency(&self) -> f64 {
        let share = |value: f64, low: f64, high: f64| ((value - low) / (high - low)).clamp(0.0, 1.0);
        let (magnitude, felt) = (share(self.magnitude, 4.0, 7.0), share(self.felt, 0.0, 200.0));
        0.5 * magnitude + 0.3 * felt + 0.2 * (1.0 - share(self.depth, 0.0, 100.0))
    }

    fn zone(&self) -> &'static str {
        let (longitude, latitude) = (self.longitude, self.latitude);
        if latitude >= 50.0 && longitude <= -129.0 {
            "Alaska"
        } else if (95.0..=150.0).contains(&longitude) && latitude >= 0.0 {
            "East Asia"
        } else if longitude >= 150.0 || longitude <= -140.0 || longitude >= 95.0 {
            "Pacific"
        } else if longitude <= -30.0 {
            "Americas"
        } else if longitude >= 45.0 && latitude >= 20.0 {
            "Central Asia"
        } else {
            "Elsewhere"
        }
    }
}

fn quakes() -> Vec<Quake> {
    let path = testkit::workspace().join("examples/earthquake-triage/data/earthquakes.json");
    let text = std::fs::read_to_string(path).expect("the data is in the repository");
    let document: Value = serde_json::from_str(&text).expect("the data is JSON");
    let features = document["features"].as_array().expect("GeoJSON has features");
    let quake = |feature: &Value| {
        let place = |index: usize| feature["geometry"]["coordinates"][index].as_f64();
        Some(Quake {
            magnitude: feature["properties"]["mag"].as_f64()?,
            felt: feature["properties"]["felt"].as_f64().unwrap_or(0.0),
            longitude: place(0)?,
            latitude: place(1)?,
            depth: place(2)?,
        })
    };
    features.iter().filter(|feature| feature["properties"]["type"] == "earthquake").filter_map(quake).collect()
}

/// The first level of a descending list whose limit is reached.
fn level(value: f64, limits: [(f64, &'static str); 3]) -> &'static str {
    limits.into_iter().find(|(limit, _)| value >= *limit).map_or("green", |(_, level)| level)
}

fn zone(name: &'static str, quakes: &[&Quake]) -> Zone {
    let most = |of: fn(&Quake) -> f64| quakes.iter().map(|quake| of(quake)).fold(0.0, f64::max);
    let (count, strongest, urgency) = (quakes.len(), most(|quake| quake.magnitude), most(Quake::urgency));
    let felt: f64 = quakes.iter().map(|quake| quake.felt).sum();
    let seismologist = level(strongest, [(6.0, "red"), (5.5, "orange"), (5.0, "yellow")]);
    let responder = level(felt, [(500.0, "red"), (50.0, "orange"), (5.0, "yellow")]);
    let statistician = match (count, urgency) {
        (20.., 0.7..) => "red",
        (_, 0.6..) => "orange",
        (5.., _) => "yellow",
        _ => "green",
    };
    let votes = [seismologist, responder, statistician];
    let winner = votes.into_iter().find(|vote| votes.iter().filter(|other| *other == vote).count() >= 2);
    Zone { name, level: winner.expect("two of the three agree"), count, strongest, felt, urgency }
}

impl Expected {
    pub(super) fn compute() -> Self {
        let quakes = quakes();
        let significant: Vec<_> = quakes.iter().filter(|quake| quake.magnitude >= 4.5).collect();
        let zones = ["Alaska", "Pacific", "East Asia", "Americas", "Central Asia", "Elsewhere"].map(|name| {
            let of_zone: Vec<_> = significant.iter().copied().filter(|quake| quake.zone() == name).collect();
            zone(name, &of_zone)
        });
        let mut magnitudes: Vec<_> = quakes.iter().map(|quake| quake.magnitude).collect();
        magnitudes.sort_by(f64::total_cmp);
        let (low, high) = (magnitudes[(magnitudes.len() - 1) / 2], magnitudes[magnitudes.len() / 2]);
        Self {
            alerts: zones.iter().filter(|zone| matches!(zone.level, "orange" | "red")).count(),
            zones: zones.into(),
            earthquakes: quakes.len(),
            significant: significant.len(),
            strongest: magnitudes[magnitudes.len() - 1],
            median: f64::midpoint(low, high),
            felt: quakes.iter().map(|quake| quake.felt).sum(),
        }
    }

    /// What the report must say.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { alerts, zones, earthquakes, significant, strongest, median, felt } = self;
        let mut lines = vec![
            format!(
                "{earthquakes} earthquakes, {significant} of magnitude 4.5 or more; the strongest had {strongest:?}"
            ),
            format!("median {median:?}. People reported {felt} times"),
            format!("{alerts} zones are on orange or red"),
        ];
        for Zone { name, level, count, strongest, felt, .. } in zones {
            lines.push(format!("| {name} | {level} | {count} | {strongest:?} | {felt} |"));
        }
        lines
    }
}
