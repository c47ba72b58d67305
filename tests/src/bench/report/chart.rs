//! The chart beside docs/performance.md: how many times better netbpf is than what stands in
//! its place.

use svg::{
    Document,
    node::element::{Group, Line, Rectangle, Text},
};

use crate::bench::{
    Results,
    rounds::{Comparison, Figures},
    worlds::Kind,
};

/// Units of the drawing, pixels at its own size.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 330.0;
const ROW: f64 = 18.0;
const GAP: f64 = 10.0;
const HEAD: f64 = 52.0;
/// Of the numbers behind the bars.
const NUMBERS: f64 = 60.0;

/// The bars of all comparisons, from 0 on; a line stands at 1.
pub fn chart(results: &Results) -> String {
    let groups: Vec<Vec<Bar>> = results.comparisons.iter().map(bars).collect();
    let longest = groups
        .iter()
        .flatten()
        .map(|bar| bar.high)
        .fold(1.5, f64::max);
    let scale = (WIDTH - NAMES - NUMBERS) / longest;
    let mut all = Group::new().set("font-size", 12);
    let mut y = HEAD;
    for bars in groups.iter().filter(|bars| !bars.is_empty()) {
        for bar in bars {
            all = all.add(bar.draw(y, scale));
            y += ROW;
        }
        y += GAP;
    }
    let one = NAMES + scale;
    let line = Line::new()
        .set("x1", one)
        .set("x2", one)
        .set("y1", HEAD - 6.0)
        .set("y2", y - GAP)
        .set("stroke", "#333")
        .set("stroke-dasharray", "3 3");
    let title = "netbpf against what stands in its place";
    let about = "How many times less time, or more data or packets: the same at the line, \
                 longer is better. Whiskers: quartiles of the rounds.";
    let document = Document::new()
        .set("viewBox", (0, 0, WIDTH, y))
        .set("width", WIDTH)
        .set("height", y)
        .set("font-family", "sans-serif")
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        )
        .add(
            Text::new(title)
                .set("x", 8)
                .set("y", 20)
                .set("font-size", 15),
        )
        .add(
            Text::new(about)
                .set("x", 8)
                .set("y", 38)
                .set("font-size", 11),
        )
        .add(all)
        .add(line);
    format!("{document}\n")
}

struct Bar {
    name: String,
    of_wire: bool,
    low: f64,
    median: f64,
    high: f64,
}

/// Of a comparison, against each of its worlds but the other netbpf.
fn bars(comparison: &Comparison) -> Vec<Bar> {
    let others = comparison
        .worlds
        .iter()
        .filter(|figures| !matches!(figures.world, Kind::Netbpf | Kind::NetbpfAgain));
    others
        .filter_map(|figures| Bar::of(comparison, figures))
        .collect()
}

impl Bar {
    fn of(comparison: &Comparison, figures: &Figures) -> Option<Bar> {
        let ratio = figures.ratio?;
        let name = Comparison::name(comparison.way, comparison.measure);
        let [low, median, high] = match comparison.measure.is_rate() {
            true => [ratio.quartile_1, ratio.median, ratio.quartile_3],
            false => [ratio.quartile_3, ratio.median, ratio.quartile_1].map(|ratio| 1.0 / ratio),
        };
        Some(Bar {
            name: format!("{name}, {}", figures.world.name()),
            of_wire: figures.world == Kind::Wire,
            low,
            median,
            high,
        })
    }

    fn draw(&self, y: f64, scale: f64) -> Group {
        let at = |value: f64| NAMES + value * scale;
        let middle = y + ROW / 2.0;
        let color = if self.of_wire { "#b8b8b8" } else { "#4477aa" };
        let name = Text::new(self.name.as_str())
            .set("x", NAMES - 6.0)
            .set("y", middle + 4.0)
            .set("text-anchor", "end");
        let bar = Rectangle::new()
            .set("x", NAMES)
            .set("y", y + 2.0)
            .set("width", self.median * scale)
            .set("height", ROW - 4.0)
            .set("fill", color);
        let whisker = Line::new()
            .set("x1", at(self.low))
            .set("x2", at(self.high))
            .set("y1", middle)
            .set("y2", middle)
            .set("stroke", "#222");
        let number = Text::new(format!("{:.2}", self.median))
            .set("x", at(self.high.max(self.median)) + 6.0)
            .set("y", middle + 4.0);
        Group::new().add(name).add(bar).add(whisker).add(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{load::Measure, stats::Summary, worlds::Way};

    fn comparison(measure: Measure, ratio: f64) -> Comparison {
        let value = Summary::of(&[1.0]).expect("a value");
        let figures = |world, ratio: Option<f64>| Figures {
            world,
            value,
            p99: None,
            ratio: ratio.and_then(|ratio| Summary::of(&[ratio])),
            samples: Vec::new(),
        };
        Comparison {
            way: Way::Published,
            measure,
            unit: measure.unit(),
            worlds: vec![
                figures(Kind::Iptables, Some(ratio)),
                figures(Kind::Netbpf, None),
                figures(Kind::NetbpfAgain, Some(1.0)),
            ],
        }
    }

    #[test]
    fn less_time_and_more_data_are_both_longer() {
        for (measure, ratio) in [(Measure::SetUp, 0.8), (Measure::Stream, 1.25)] {
            let bars = bars(&comparison(measure, ratio));
            assert_eq!(bars.len(), 1, "{measure}");
            assert!((bars[0].median - 1.25).abs() < 1e-9, "{measure}");
            assert!(bars[0].name.ends_with("iptables"), "{}", bars[0].name);
        }
    }
}
