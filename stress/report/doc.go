// Package report shows what the harness measured: a bar or lines while it runs, and
// at the end a table, JSON, and one HTML file with plots that needs nothing else.
//
// A [Report] holds [Contender]s, each with the results of its rounds in the order in
// which they were run: one contender where one target was driven, several where
// peers stand side by side or where a sweep gives options of the engine values. All
// of them go through the same comparison. For each [Measure] it has the median of a
// contender's rounds with the least and the greatest, and the ratio to the first
// contender, which is taken round by round, so that what the machine does to a whole
// round is not seen in it. Contenders whose results have Options are a grid: Effects
// tells of each option alone what a value buys beside the first, over all pairs of
// points that differ in nothing else.
//
// It imports metrics, and nothing else of the harness.
package report
