// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgfs/imgfs"
)

// A filter is one --filter KEY=VALUE.
type filter struct {
	key, value string
	not        bool // KEY!=VALUE
}

// parseFilters reads --filter flags; the keys may be those of known.
func parseFilters(flags []string, known ...string) ([]filter, error) {
	var list []filter
	for _, text := range flags {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usagef("--filter %q: want KEY=VALUE", text)
		}
		key, not := strings.CutSuffix(strings.TrimSpace(key), "!")
		f := filter{key: strings.ToLower(key), value: strings.TrimSpace(value), not: not}
		if !slices.Contains(known, f.key) || f.not && f.key != "label" {
			return nil, usagef("--filter %q: want %s", text, strings.Join(known, ", "))
		}
		list = append(list, f)
	}
	return list, nil
}

// label returns what a label filter asks for: KEY or KEY=VALUE.
func (f filter) label() imgfs.LabelFilter {
	key, value, hasValue := strings.Cut(f.value, "=")
	return imgfs.LabelFilter{Key: key, Value: value, AnyValue: !hasValue, Not: f.not}
}

// timeLayouts are the forms that docker takes; without a zone the time is local.
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15",
	"2006-01-02Z07:00", "2006-01-02",
}

// parseTime reads a time as docker's until filter does: a duration before now
// (24h), a date or time, or seconds since 1970.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil && sec > -1e11 && sec < 1e11 {
		whole := int64(sec)
		return time.Unix(whole, int64((sec-float64(whole))*1e9)), nil
	}
	return time.Time{}, &usageError{fmt.Errorf("%q: want a duration (24h), a date (2006-01-02) or a time (2006-01-02T15:04:05)", s)}
}
