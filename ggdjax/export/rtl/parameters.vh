// The accelerator's widths and rules, written from its specification.
// ROUNDING: 0 half away, 1 half even, 2 half up, 3 floor, 4 toward zero.
`ifndef ACCELERATOR_PARAMETERS
`define ACCELERATOR_PARAMETERS
`define ACCELERATOR_ACTIVATION_BITS 8
`define ACCELERATOR_WEIGHT_BITS 8
`define ACCELERATOR_MULTIPLIER_BITS 31
`define ACCELERATOR_ACCUMULATOR_BITS 32
`define ACCELERATOR_CARRY_BITS 30
`define ACCELERATOR_ROUNDING 1
`define ACCELERATOR_SATURATE 0
`endif
