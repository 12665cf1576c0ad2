// y = maximum or sum of a window, one value per clock; `first` is high with the window's first value.
// An average is the sum followed by a requantizer whose multiplier and shift hold the division.
`include "parameters.vh"

module pooling #(
    parameter MAXIMUM = 1,
    parameter X_BITS = `ACCELERATOR_CARRY_BITS,
    parameter OUT_BITS = `ACCELERATOR_ACCUMULATOR_BITS
) (
    input clk,
    input enable,
    input first,
    input signed [X_BITS-1:0] x,
    output reg signed [OUT_BITS-1:0] y
);
    wire signed [OUT_BITS-1:0] wide = x;

    always @(posedge clk) begin
        if (enable) y <= first ? wide : !MAXIMUM ? y + wide : wide > y ? wide : y;
    end
endmodule
