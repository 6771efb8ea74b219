// Package archtest holds the project to rules that the compiler does not know: which package
// may import which, that each package says what it is for, and that each citation of the
// specification names a heading that exists. It has tests alone.
//
// A rule that is in the way may be changed, together with its reason.
package archtest
