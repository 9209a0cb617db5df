package main

import "slices"

// allRows are in the order in which they run: those with a small memory first, so
// that no garbage of a large one is in their way.
var allRows = slices.Concat(askRows, smallPairRows, overlayRows, tailRows, readRows, shrunkRows, largePairRows, openRows)
