//! The figures as a picture: bars with their range over the rounds, and open-loop latency.

use super::{
    plan::{HEADLINE, Shape, Variant},
    results::{Case, Metric, OpenLoop, spread, variants},
};
use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};
use std::path::Path;

const SIZE: (u32, u32) = (1500, 1000);
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const THEIRS: RGBColor = RGBColor(0x9e, 0x9e, 0x9e);
/// Colours of the quantiles.
const QUANTILES: [(&str, RGBColor, Reading); 4] = [
    ("p50", RGBColor(0x2c, 0xa0, 0x2c), |open| open.measured.p50_us),
    ("p90", RGBColor(0x94, 0x67, 0xbd), |open| open.measured.p90_us),
    ("p99", RGBColor(0xff, 0x7f, 0x0e), |open| open.measured.p99_us),
    ("p99.9", RGBColor(0xd6, 0x27, 0x28), |open| open.measured.p999_us),
];

type Reading = fn(&OpenLoop) -> f64;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws requests a second, CPU per request and latency at 32 connections and 100 B.
pub(super) fn draw(path: &Path, cases: &[Case]) -> Result<()> {
    let close = Shape { reuse: false, ..HEADLINE };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = (|| {
        root.fill(&WHITE).map_err(failed)?;
        let panels = root.split_evenly((2, 2));
        let [rps, cpu, rps_close, latency] = panels.as_slice() else { return Err(anyhow!("four panels")) };
        bars(rps, "requests/s: 32 connections, keep-alive, 100 B", cases, HEADLINE, Metric::Rps)?;
        bars(cpu, "CPU of the whole machine, us per request: the same", cases, HEADLINE, Metric::Cpu)?;
        bars(rps_close, "requests/s: connection per request", cases, close, Metric::Rps)?;
        latencies(latency, "open-loop latency, us: keep-alive, half of each path's saturation", cases)?;
        root.present().map_err(failed)
    })();
    drawn.map_err(|error: anyhow::Error| error.context(format!("draw {}", path.display())))
}

/// One bar a variant: the median, with a line from the smallest to the largest round.
fn bars(area: &Area<'_>, title: &str, cases: &[Case], shape: Shape, metric: Metric) -> Result<()> {
    let these = |variant| cases.iter().filter(move |case| case.variant == variant && case.shape == shape);
    let bars: Vec<_> = from_bottom(cases)
        .filter_map(|variant| Some((variant, spread(these(variant).map(|case| metric.of(case)))?)))
        .collect();
    let most = bars.iter().map(|(_, value)| value.max).fold(0.0, f64::max) * 1.05;
    let Some(last) = bars.len().checked_sub(1) else { return Ok(()) };
    let names: Vec<_> = bars.iter().map(|(variant, _)| *variant).collect();
    let mut chart =
        builder(area, title).build_cartesian_2d(0.0..most, (0..last).into_segmented()).map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_labels(names.len())
        .y_label_formatter(&|place| label(place, &names))
        .label_style(("sans-serif", 12))
        .draw()
        .map_err(failed)?;
    let rectangles = bars.iter().enumerate().map(|(place, (variant, value))| {
        let corners = [(0.0, SegmentValue::Exact(place)), (value.median, SegmentValue::Exact(place + 1))];
        let mut bar = Rectangle::new(corners, colour(*variant).filled());
        bar.set_margin(5, 5, 0, 0);
        bar
    });
    chart.draw_series(rectangles).map_err(failed)?;
    let ranges = bars.iter().enumerate().map(|(place, (_, value))| {
        let place = SegmentValue::CenterOf(place);
        ErrorBar::new_horizontal(place, value.min, value.median, value.max, BLACK.filled(), 8)
    });
    chart.draw_series(ranges).map_err(failed)?;
    Ok(())
}

/// Open-loop quantiles on a logarithmic scale, with their range.
fn latencies(area: &Area<'_>, title: &str, cases: &[Case]) -> Result<()> {
    let open = |variant: Variant| {
        let these = cases.iter().filter(move |case| case.variant == variant && case.shape == HEADLINE);
        these.filter_map(|case| case.open_loop.as_ref())
    };
    let names: Vec<_> = from_bottom(cases).filter(|variant| open(*variant).next().is_some()).collect();
    let Some(last) = names.len().checked_sub(1) else { return Ok(()) };
    let all = || names.iter().flat_map(|variant| open(*variant));
    let least = all().map(|open| open.measured.p50_us).fold(f64::MAX, f64::min);
    let most = all().map(|open| open.measured.p999_us).fold(least, f64::max);
    let mut chart = builder(area, title)
        .build_cartesian_2d((least * 0.8..most * 1.3).log_scale(), (0..last).into_segmented())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_labels(names.len())
        .y_label_formatter(&|place| label(place, &names))
        .label_style(("sans-serif", 12))
        .draw()
        .map_err(failed)?;
    for (name, colour, of) in QUANTILES {
        let points = names.iter().enumerate().filter_map(|(place, variant)| {
            let value = spread(open(*variant).map(of))?;
            let place = SegmentValue::CenterOf(place);
            Some(ErrorBar::new_horizontal(place, value.min, value.median, value.max, colour.filled(), 10))
        });
        chart
            .draw_series(points)
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 13))
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(failed)?;
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, ("sans-serif", 17)).margin(14).x_label_area_size(30).y_label_area_size(150);
    builder
}

/// Variants as the vertical axis counts them: the first stands at the top.
fn from_bottom(cases: &[Case]) -> impl Iterator<Item = Variant> {
    variants(cases).into_iter().rev()
}

fn label(place: &SegmentValue<usize>, names: &[Variant]) -> String {
    let index = match place {
        SegmentValue::CenterOf(index) | SegmentValue::Exact(index) => *index,
        SegmentValue::Last => return String::new(),
    };
    names.get(index).map_or_else(String::new, ToString::to_string)
}

fn colour(variant: Variant) -> RGBColor {
    if variant.path.is_ours() { OURS } else { THEIRS }
}

/// Drawing errors do not live long enough to be passed on.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::bench::{plan, results::tests::case_of};

    #[test]
    fn the_picture_names_every_path() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("datapath.svg");
        let variants = [
            Variant::new(plan::Path::Direct, 1),
            Variant::new(plan::Path::EbpfRedirect, 1),
            Variant::ruled(plan::Path::EbpfSplice, plan::RULES),
        ];
        let mut cases: Vec<_> = variants.map(|variant| case_of(variant, 1, HEADLINE, 1000.0)).into();
        for case in &mut cases {
            case.open_loop = Some(OpenLoop { rate: 500.0, measured: case.measured, kernel: case.kernel });
        }
        draw(&file, &cases).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        for name in ["direct", "ebpf-redirect", "splice", "p90", "p99.9"] {
            assert!(text.contains(name), "{name}");
        }
    }
}
