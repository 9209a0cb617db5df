package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Charts are two to a line on paper; wide ones have the line to themselves.
const (
	chartWidth  vg.Length = 252 // points, as everything here
	wideWidth   vg.Length = 512
	chartHeight vg.Length = 140
	rowHeight   vg.Length = 14 // of a line with a name
	textSize    vg.Length = 8
)

// curve is a line of a chart. On paper without colours its dashes tell it from
// others.
type curve struct {
	name   string
	points plotter.XYs
}

// axis says how the values along it are written.
type axis struct {
	label string
	unit  Unit
	log   bool
	ticks plot.Ticker // nil: what suits the unit
	// least and most are at least shown, where they are not 0.
	least, most float64
}

// chart is a picture with a title, and a key where it has several curves.
type chart struct {
	title  string
	note   string // a line below the title, "" for none
	wide   bool
	x, y   axis
	curves []curve
}

// Styles are given to curves in turn. The colours differ in lightness as well.
var (
	colours = []color.NRGBA{
		{0x00, 0x3f, 0x7d, 0xff}, {0xc4, 0x4e, 0x00, 0xff}, {0x00, 0x7a, 0x5e, 0xff},
		{0x00, 0x00, 0x00, 0xff}, {0x9b, 0x2f, 0x78, 0xff}, {0x7a, 0x6a, 0x00, 0xff},
	}
	dashes = [][]vg.Length{nil, {5, 2}, {1.5, 1.5}, {7, 2, 1.5, 2}, {3, 1}, {8, 3}}
)

func lineStyle(i int) draw.LineStyle {
	return draw.LineStyle{Color: colours[i%len(colours)], Width: 1.1, Dashes: dashes[i%len(dashes)]}
}

// figure is a chart as it stands in the page.
type figure struct {
	Title string
	Note  string
	Wide  bool
	Key   []keyEntry
	SVG   template.HTML
}

type keyEntry struct {
	Name           string
	Colour, Dashes string
}

// draw draws the chart; nil where there is nothing to see.
func (c chart) draw() (*figure, error) {
	p := newPlot()
	f := &figure{Title: c.title, Note: c.note, Wide: c.wide}
	drawn := 0
	for i, curve := range c.curves {
		points := c.within(curve.points)
		if len(points) < 2 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("chart %q: %s: %w", c.title, curve.name, err)
		}
		line.LineStyle = lineStyle(i)
		p.Add(line)
		drawn++
		f.Key = append(f.Key, entry(curve.name, i))
	}
	if drawn == 0 {
		return nil, nil
	}
	if len(c.curves) < 2 {
		f.Key = nil
	}
	c.x.apply(&p.X)
	c.y.apply(&p.Y)
	width := chartWidth
	if c.wide {
		width = wideWidth
	}
	var err error
	f.SVG, err = render(p, width, chartHeight, c.title)
	return f, err
}

// within leaves out what cannot be drawn.
func (c chart) within(points plotter.XYs) plotter.XYs {
	var kept plotter.XYs
	for _, p := range points {
		if c.x.log && p.X <= 0 || c.y.log && p.Y <= 0 || math.IsNaN(p.Y) || math.IsInf(p.Y, 0) {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

func entry(name string, i int) keyEntry {
	style := lineStyle(i)
	e := keyEntry{Name: name, Colour: fmt.Sprintf("#%02x%02x%02x", colours[i%len(colours)].R, colours[i%len(colours)].G, colours[i%len(colours)].B)}
	for _, d := range style.Dashes {
		e.Dashes += fmt.Sprintf("%v ", float64(d))
	}
	return e
}

func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font = sans()
		a.Tick.Label.Font = sans()
		a.Tick.Length = 3
		a.Padding = 0
		a.Label.Padding = 2
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color = color.Gray{0xd8}
	grid.Horizontal.Color = color.Gray{0xd8}
	p.Add(grid)
	return p
}

func sans() font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: textSize} }

func (a axis) apply(to *plot.Axis) {
	to.Label.Text = a.label
	if a.least != 0 {
		to.Min = min(to.Min, a.least)
	}
	if a.most != 0 {
		to.Max = max(to.Max, a.most)
	}
	if a.log {
		to.Min = math.Pow(10, math.Floor(math.Log10(to.Min)+1e-9))
		to.Max = math.Pow(10, math.Ceil(math.Log10(to.Max)-1e-9))
		if to.Max <= to.Min {
			to.Max = to.Min * 10
		}
		to.Scale = plot.LogScale{}
		to.Tick.Marker = labelled{plot.LogTicks{Prec: -1}, a.unit}
	} else {
		to.Min = min(to.Min, 0)
		to.Max += (to.Max - to.Min) * 0.04
		if to.Max <= to.Min {
			to.Max = to.Min + 1
		}
		to.Tick.Marker = labelled{plot.DefaultTicks{}, a.unit}
	}
	if a.ticks != nil {
		to.Tick.Marker = a.ticks
	}
}

// labelled writes the unit at the ticks of another.
type labelled struct {
	plot.Ticker
	unit Unit
}

// Ticks implements plot.Ticker.
func (l labelled) Ticks(from, to float64) []plot.Tick {
	ticks := l.Ticker.Ticks(from, to)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = l.unit.Format(ticks[i].Value)
			if ticks[i].Value == 0 {
				ticks[i].Label = "0"
			}
		}
	}
	return ticks
}

// render makes an element that stands in a page: without a prolog, and of the width
// that it is given there.
func render(p *plot.Plot, width, height vg.Length, title string) (template.HTML, error) {
	canvas := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(canvas), 0, -6, 0, -4)) // half a label at the ends of the axes
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", fmt.Errorf("chart %q: %w", title, err)
	}
	_, body, ok := bytes.Cut(b.Bytes(), []byte("<svg"))
	_, body, also := bytes.Cut(body, []byte(">"))
	if !ok || !also {
		return "", fmt.Errorf("chart %q: it is no SVG", title)
	}
	open := fmt.Sprintf(`<svg viewBox="0 0 %v %v" role="img" aria-label="%s">`,
		float64(width), float64(height), template.HTMLEscapeString(title))
	// The library escapes text.
	return template.HTML(open + string(body)), nil
}
