// Package config is what an operator can set: the settings as structs, their defaults, and
// the loading and checking of the file that changes them. It has no behaviour; cmd/parley
// copies the settings into the options of each package.
//
// A file is YAML. Load finds all that is wrong with it at once, each problem with its file,
// line and column: unknown keys, wrong types, values out of range, and settings that
// contradict each other. Any secret can come from a file of its own, named by the setting
// that ends in _file. Relative paths start at the folder of the configuration file.
//
// The comments of the struct fields are the documentation: sample.yaml (which
// `parley config init` writes) and docs/configuration.md are generated from them and from
// Default, and a test fails when they are out of date.
package config

//go:generate go run parley/internal/gen/configdoc -root ..
