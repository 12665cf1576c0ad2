// acc = bias + sum of x * weight: LANES products per clock.
// A tile of input channels takes one or more clocks; `first` is high in the first clock of an output value, `last` in
// the last clock of every tile. The policy limits the accumulator once per tile, when the tile's sum is added to it.
`include "parameters.vh"

module processing_element #(
    parameter LANES = 16,
    parameter X_BITS = `ACCELERATOR_ACTIVATION_BITS,
    parameter X_SIGNED = 0,
    parameter WEIGHT_BITS = `ACCELERATOR_WEIGHT_BITS,
    // Must hold the sum of one tile.
    parameter PARTIAL_BITS = 32,
    parameter ACCUMULATOR_BITS = `ACCELERATOR_ACCUMULATOR_BITS,
    parameter SATURATE = `ACCELERATOR_SATURATE
) (
    input clk,
    input enable,
    input first,
    input last,
    input [LANES*X_BITS-1:0] x,
    input [LANES*WEIGHT_BITS-1:0] weights,
    input signed [ACCUMULATOR_BITS-1:0] bias,
    output reg signed [ACCUMULATOR_BITS-1:0] acc,
    // High for one clock after a sum that the accumulator could not hold.
    output reg overflow
);
    localparam SUM_BITS = (PARTIAL_BITS > ACCUMULATOR_BITS ? PARTIAL_BITS : ACCUMULATOR_BITS) + 1;

    reg signed [PARTIAL_BITS-1:0] partial;
    reg signed [PARTIAL_BITS-1:0] sum;
    reg signed [X_BITS:0] x_lane;
    reg signed [WEIGHT_BITS-1:0] weight_lane;
    integer lane;

    always @* begin
        sum = first ? {PARTIAL_BITS{1'b0}} : partial;
        for (lane = 0; lane < LANES; lane = lane + 1) begin
            x_lane = {X_SIGNED ? x[lane*X_BITS+X_BITS-1] : 1'b0, x[lane*X_BITS+:X_BITS]};
            weight_lane = weights[lane*WEIGHT_BITS+:WEIGHT_BITS];
            sum = sum + x_lane * weight_lane;
        end
    end

    wire signed [ACCUMULATOR_BITS-1:0] base = first ? bias : acc;
    wire signed [SUM_BITS-1:0] total = base + sum;
    wire signed [ACCUMULATOR_BITS-1:0] wrapped = total[ACCUMULATOR_BITS-1:0];
    wire over = wrapped != total;
    wire signed [ACCUMULATOR_BITS-1:0] nearest = {total[SUM_BITS-1], {(ACCUMULATOR_BITS - 1) {~total[SUM_BITS-1]}}};

    always @(posedge clk) begin
        if (enable) begin
            partial <= last ? {PARTIAL_BITS{1'b0}} : sum;
            acc <= !last ? base : (SATURATE && over) ? nearest : wrapped;
            overflow <= last & over;
        end
    end
endmodule
